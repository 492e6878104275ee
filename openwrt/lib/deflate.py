"""Compression whose bytes depend on nothing but the data: no name, no time, no word on the machine."""

import struct
import zlib


def deflate(data: bytes) -> bytes:
    """Raw deflate (RFC 1951), as small as zlib makes it."""
    packer = zlib.compressobj(level=9, wbits=-15, memLevel=9)
    return packer.compress(data) + packer.flush()


def inflate(data: bytes) -> bytes:
    """What was deflated."""
    return zlib.decompress(data, wbits=-15)


def gzip(data: bytes) -> bytes:
    """RFC 1952, as `gzip -9n` heads it."""
    head = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03"
    return head + deflate(data) + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)
