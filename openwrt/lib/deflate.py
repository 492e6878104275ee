"""Compression whose bytes depend on the data and the machine's tools alone: no name, no time.

Where zopfli is installed (Debian's package of that name) it takes seconds and saves three bytes in a hundred.
"""

import shutil
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Callable

ZOPFLI = shutil.which("zopfli")


def deflate(data: bytes) -> bytes:
    """Raw deflate (RFC 1951), as small as it gets here."""
    if ZOPFLI:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            return subprocess.check_output([ZOPFLI, "--i5", "--deflate", "-c", file.name])
    return quick(data)


def quick(data: bytes) -> bytes:
    """Raw deflate by zlib, for what is packed already."""
    packer = zlib.compressobj(level=9, wbits=-15, memLevel=9)
    return packer.compress(data) + packer.flush()


def inflate(data: bytes) -> bytes:
    """What was deflated."""
    return zlib.decompress(data, wbits=-15)


def gzip(data: bytes, pack: Callable[[bytes], bytes] = deflate) -> bytes:
    """RFC 1952, as `gzip -9n` heads it."""
    head = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03"
    return head + pack(data) + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)
