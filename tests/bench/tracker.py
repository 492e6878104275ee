"""An HTTP tracker that counts: tracker.py PORT INTERVAL STRANGERS

It asks to come back after INTERVAL seconds and names STRANGERS addresses where nobody listens, never other peers (the
seeders measured side by side share their torrents). GET /seeds?port=N: how many torrents the peer of that port has
announced as whole. GET /forget?port=N: nothing is known of it any more.
"""

import asyncio
import struct
import sys
from urllib.parse import unquote_to_bytes

ADDRESS = "10.77.0.1"
port, interval, strangers = map(int, sys.argv[1:])
seeds = {}  # port: set of info-hashes
named = b"".join(bytes((10, 77, 200, n % 250 + 1)) + struct.pack(">H", 1 + n // 250) for n in range(strangers))


def announce(query):
    field = dict(pair.partition(b"=")[::2] for pair in query.split(b"&"))
    known = seeds.setdefault(int(field[b"port"]), set())
    info_hash = unquote_to_bytes(field[b"info_hash"])
    if field.get(b"event") == b"stopped":
        known.discard(info_hash)
    elif field.get(b"left") == b"0":
        known.add(info_hash)
    return b"d8:completei1e10:incompletei0e8:intervali%de5:peers%d:%se" % (interval, len(named), named)


def answer(path):
    name, _, query = path.partition(b"?")
    if name == b"/announce":
        return announce(query)
    number = int(query.partition(b"=")[2])
    if name == b"/forget":
        seeds.pop(number, None)
    return b"%d" % len(seeds.get(number, ()))


async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            body = answer(head.split(b" ", 2)[1])
            close = b"HTTP/1.0" in head or b"connection: close" in head.lower()
            word = b"close" if close else b"keep-alive"
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n" % (len(body), word) + body)
            await writer.drain()
            if close:
                break
    except (asyncio.IncompleteReadError, ConnectionError, KeyError, ValueError):
        pass
    writer.close()


async def main():
    async with await asyncio.start_server(serve, ADDRESS, port, backlog=4096) as server:
        await server.serve_forever()


asyncio.run(main())
