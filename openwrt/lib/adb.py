"""ADB, the tree of values in apk-tools' files of version 3 (apk-v3(5)), and the blocks around it.

A value is a 32-bit word of type and payload. An integer below 2^28 is the payload itself; anything else lies elsewhere in
the block and the payload is its offset. An object or an array is a row of words, whose first is their number with itself;
trailing empty words of an object are left off. What is written twice is stored once. All numbers are little-endian.
"""

import struct
from collections.abc import Iterator, Sequence

INT, INT32, INT64 = 0x1, 0x2, 0x3
BLOB8, BLOB16, BLOB32 = 0x8, 0x9, 0xA
ARRAY, OBJECT = 0xD, 0xE

ADB, SIG, DATA = 0, 1, 2  # types of blocks

PACKAGE, INDEX = b"pckg", b"indx"  # schemas

MAGIC = b"ADB."
HEADER = struct.pack("<BBHI", 0, 0, 0, 0)  # versions of the format, reserved, the root


class Writer:
    """Builds the content of an ADB block."""

    def __init__(self) -> None:
        self.content = bytearray(HEADER)
        self.known: dict[bytes, int] = {}

    def store(self, data: bytes, alignment: int) -> int:
        """Where `data` lies, stored now unless it already was at a fitting offset."""
        at = self.known.get(data)
        if at is None or at % alignment:
            self.content += bytes(-len(self.content) % alignment)
            at = self.known[data] = len(self.content)
            self.content += data
        return at

    def integer(self, number: int) -> int:
        """The value of a number that is not negative."""
        if number < 1 << 28:
            return word(INT, number)
        if number < 1 << 32:
            return word(INT32, self.store(struct.pack("<I", number), 4))
        return word(INT64, self.store(struct.pack("<Q", number), 4))

    def blob(self, data: bytes | str) -> int:
        """The value of bytes; none of them is no value."""
        data = data.encode() if isinstance(data, str) else data
        if not data:
            return 0
        if len(data) < 1 << 8:
            return word(BLOB8, self.store(bytes([len(data)]) + data, 1))
        if len(data) < 1 << 16:
            return word(BLOB16, self.store(struct.pack("<H", len(data)) + data, 2))
        return word(BLOB32, self.store(struct.pack("<I", len(data)) + data, 4))

    def array(self, values: Sequence[int]) -> int:
        """The value of a row of values in the order that the schema asks for."""
        return self.row(ARRAY, values)

    def object(self, fields: dict[int, int]) -> int:
        """The value of an object from its fields' numbers and values."""
        given = {number: value for number, value in fields.items() if value}
        return self.row(OBJECT, [given.get(number, 0) for number in range(1, max(given, default=0) + 1)])

    def row(self, kind: int, values: Sequence[int]) -> int:
        """The value of an array or an object; an empty one is no value."""
        if not values:
            return 0
        return word(kind, self.store(struct.pack(f"<{len(values) + 1}I", len(values) + 1, *values), 4))

    def finish(self, root: int) -> bytes:
        """The whole content, with its root."""
        struct.pack_into("<I", self.content, 4, root)
        return bytes(self.content)


class Reader:
    """Reads what a Writer, or apk, wrote."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def root(self) -> int:
        """The value of everything."""
        return self.word(4)

    def word(self, at: int) -> int:
        """A 32-bit number."""
        return int(struct.unpack_from("<I", self.content, at)[0])

    def fields(self, value: int) -> list[int]:
        """An object's or an array's values, by their numbers from 1."""
        at = value & 0x0FFFFFFF
        return [0, *struct.unpack_from(f"<{self.word(at) - 1}I", self.content, at + 4)] if value else []

    def copy(self, value: int, writer: Writer) -> int:
        """The same value in another block."""
        kind, at = value >> 28, value & 0x0FFFFFFF
        if kind in (ARRAY, OBJECT):
            return writer.row(kind, [self.copy(field, writer) for field in self.fields(value)[1:]])
        if kind in (INT32, INT64):
            return writer.integer(int.from_bytes(self.content[at : at + (4 if kind == INT32 else 8)], "little"))
        if kind in (BLOB8, BLOB16, BLOB32):
            return writer.blob(self.blob(value))
        return value

    def blob(self, value: int) -> bytes:
        """The bytes of a blob; no value has none."""
        at, size = value & 0x0FFFFFFF, {BLOB8: 1, BLOB16: 2, BLOB32: 4}.get(value >> 28, 0)
        length = int.from_bytes(self.content[at : at + size], "little")
        return self.content[at + size : at + size + length]


def word(kind: int, payload: int) -> int:
    """A value from its type and payload."""
    if payload >= 1 << 28:
        raise SystemExit("too large for an ADB block")
    return kind << 28 | payload


def block(kind: int, content: bytes) -> bytes:
    """A block of a file, padded to eight bytes."""
    size = 4 + len(content)
    if size >= 1 << 30:
        raise SystemExit("too large for a block of an apk")
    return struct.pack("<I", kind << 30 | size) + content + bytes(-size % 8)


def blocks(file: bytes) -> Iterator[tuple[int, bytes]]:
    """Types and contents of a file's blocks, after its magic and schema."""
    at = 8
    while at < len(file):
        (head,) = struct.unpack_from("<I", file, at)
        size = head & 0x3FFFFFFF
        yield head >> 30, file[at + 4 : at + size]
        at += size + -size % 8
