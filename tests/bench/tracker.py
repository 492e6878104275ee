"""An HTTP tracker that counts: tracker.py PORT INTERVAL STRANGERS

It asks to come back after INTERVAL seconds and names STRANGERS addresses where nobody listens, never other peers (the
seeders measured side by side share their torrents). GET /seeds?port=N: how many torrents the peer of that port has
announced as whole. GET /forget?port=N: nothing is known of it any more.

One that downloads is let go at a moment that is known. GET /hold?port=N before it starts: while it lacks something, its
announces wait. GET /held?port=N: how many do. GET /release?port=N&peers=IP:PORT,…: they are answered with these peers.
GET /took?port=N: the milliseconds from there until it announced that it lacks nothing; 0 before.
"""

import asyncio
import struct
import sys
import time
from urllib.parse import unquote_to_bytes

ADDRESS = "10.77.0.1"
port, interval, strangers = map(int, sys.argv[1:])
seeds = {}  # port: set of info-hashes
named = b"".join(bytes((10, 77, 200, n % 250 + 1)) + struct.pack(">H", 1 + n // 250) for n in range(strangers))
held = {}  # port: Held


class Held:
    """A peer that downloads: whether it may, from whom, since when, and how long it took."""

    def __init__(self):
        self.released, self.waiting, self.peers, self.since, self.took = asyncio.Event(), 0, b"", 0, 0

    async def wait(self):
        self.waiting += 1
        await self.released.wait()
        self.waiting -= 1

    def release(self, peers):
        self.peers, self.since = b"".join(map(compact, peers.split(b","))), time.monotonic()
        self.released.set()

    def is_whole(self):
        self.took = self.took or round((time.monotonic() - self.since) * 1000)


def compact(peer):
    address, _, number = peer.partition(b":")
    return bytes(map(int, address.split(b"."))) + struct.pack(">H", int(number))


async def announce(query):
    field = dict(pair.partition(b"=")[::2] for pair in query.split(b"&"))
    known = seeds.setdefault(int(field[b"port"]), set())
    download, peers = held.get(int(field[b"port"])), named
    info_hash = unquote_to_bytes(field[b"info_hash"])
    if field.get(b"event") == b"stopped":
        known.discard(info_hash)
    elif field.get(b"left") == b"0":
        known.add(info_hash)
        if download:
            download.is_whole()
    elif download:
        await download.wait()
        peers = download.peers
    return b"d8:completei1e10:incompletei0e8:intervali%de5:peers%d:%se" % (interval, len(peers), peers)


async def answer(path):
    name, _, query = path.partition(b"?")
    if name == b"/announce":
        return await announce(query)
    if name == b"/scrape":
        asked = [unquote_to_bytes(pair[10:]) for pair in query.split(b"&")]
        return b"d5:filesd%see" % b"".join(b"20:%sd8:completei1e10:downloadedi0e10:incompletei0ee" % one for one in asked)
    number, _, peers = query.partition(b"=")[2].partition(b"&peers=")
    number = int(number)
    if name == b"/hold":
        held[number] = Held()
    elif name == b"/release":
        held[number].release(peers)
    elif name == b"/held":
        return b"%d" % held[number].waiting
    elif name == b"/took":
        return b"%d" % held[number].took
    elif name == b"/forget":
        seeds.pop(number, None)
    return b"%d" % len(seeds.get(number, ()))


async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            body = await answer(head.split(b" ", 2)[1])
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
