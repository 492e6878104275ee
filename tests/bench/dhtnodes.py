"""A DHT of COUNT nodes in one process, which answer and never ask (BEP 5, 32): dhtnodes.py COUNT

Node n is 10.90.x.y and fd90::x:y, port 6881, on addresses that the kernel takes for its own.
"""

import hashlib
import heapq
import ipaddress
import selectors
import socket
import struct
import sys

from torrents import bencode

PORT = 6881
IP_PKTINFO, IPV6_FREEBIND = 8, 78  # Linux; Python names the first from 3.14 on
ids = [hashlib.sha1(b"%d" % n).digest() for n in range(int(sys.argv[1]))]
numbers = [int.from_bytes(id_, "big") for id_ in ids]
FIRST = {socket.AF_INET: ipaddress.ip_address("10.90.0.1"), socket.AF_INET6: ipaddress.ip_address("fd90::1")}


def decode(text, at=0):
    if text[at] in b"dl":
        items, at, is_list = [], at + 1, text[at] == ord("l")
        while text[at] != ord("e"):
            item, at = decode(text, at)
            items.append(item)
        return (items if is_list else dict(zip(items[::2], items[1::2]))), at + 1
    end = text.index(b"e" if text[at] == ord("i") else b":", at)
    if text[at] == ord("i"):
        return int(text[at + 1 : end]), end + 1
    start, length = end + 1, int(text[at:end])
    return text[start : start + length], start + length


def near(target, family):
    """The eight nodes that are nearest to it, compact."""
    target = int.from_bytes(target, "big")
    found = heapq.nsmallest(8, range(len(ids)), key=lambda n: numbers[n] ^ target)
    return b"".join(ids[n] + (FIRST[family] + n).packed + struct.pack(">H", PORT) for n in found)


def answer(query, here, family):
    number = int(here) - int(FIRST[family])
    if query.get(b"y") != b"q" or not 0 <= number < len(ids):
        return None
    reply, asked = {"id": ids[number]}, query[b"a"]
    if query[b"q"] in (b"find_node", b"get_peers"):
        target = asked.get(b"target") or asked[b"info_hash"]
        wanted = asked.get(b"want", [b"n4" if family == socket.AF_INET else b"n6"])
        for word, key, of in ((b"n4", "nodes", socket.AF_INET), (b"n6", "nodes6", socket.AF_INET6)):
            if word in wanted:
                reply[key] = near(target, of)
        if query[b"q"] == b"get_peers":
            reply["token"] = b"token"
    return bencode({"t": query[b"t"], "y": "r", "r": reply})


def serve(listener):
    family = listener.family
    packet, extra, _, sender = listener.recvmsg(2048, 128)
    info = extra[0][2]
    # To the same address as it came to: that is who answers.
    here = ipaddress.ip_address(info[8:12] if family == socket.AF_INET else info[:16])
    try:
        reply = answer(decode(packet)[0], here, family)
    except (IndexError, KeyError, TypeError, ValueError):
        return
    if reply:
        if family == socket.AF_INET:
            source = [(socket.IPPROTO_IP, IP_PKTINFO, struct.pack("@I4s4s", 0, here.packed, bytes(4)))]
        else:
            source = [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, here.packed + struct.pack("@I", 0))]
        listener.sendmsg([reply], source, 0, sender)


def main():
    selector = selectors.DefaultSelector()
    four, six = (socket.socket(family, socket.SOCK_DGRAM) for family in FIRST)
    four.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    six.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
    six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    for listener, address in ((four, "0.0.0.0"), (six, "::")):
        listener.bind((address, PORT))
        selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            serve(key.fileobj)


main()
