"""The sets of torrents that the rows seed, made once and kept in the work folder."""

import copy
import hashlib
import os
import shutil


def bencode(value):
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    if isinstance(value, list):
        return b"l" + b"".join(map(bencode, value)) + b"e"
    return b"d" + b"".join(bencode(key) + bencode(value[key]) for key in sorted(value)) + b"e"


class Set:
    """A folder of torrents and one of data. `announce`: a tracker, a list of them, or none. `one` describes the torrent of a
    set that has just one."""

    def __init__(self, folder, announce):
        self.torrents, self.data, self.announce, self.one = folder + "/torrents", folder + "/data", announce, None
        self.done = os.path.exists(folder + "/done")
        self.folder, self.count = folder, 0
        os.makedirs(self.torrents, exist_ok=True)
        os.makedirs(self.data, exist_ok=True)

    def add(self, info):
        """Writes the torrent of this info dictionary. Of several trackers each second torrent names the last one first."""
        bytes_ = bencode(info)
        torrent = {"info": info}
        if isinstance(self.announce, list):
            torrent["announce-list"] = [[url] for url in self.announce[:: 1 if self.count % 2 else -1]]
        elif self.announce:
            torrent["announce"] = self.announce
        self.count += 1
        with open(f"{self.torrents}/{info['name']}.torrent", "wb") as file:
            file.write(bencode(torrent))
        self.one = hashlib.sha1(bytes_).hexdigest()

    def into(self, folder):
        """The same torrents, of which nothing is there yet, for one who downloads them to that folder."""
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        wanted = copy.copy(self)
        wanted.data = folder
        return wanted

    def close(self):
        open(self.folder + "/done", "w").close()
        return self


def pieces_of(path, length):
    with open(path, "rb") as file:
        return b"".join(hashlib.sha1(block).digest() for block in iter(lambda: file.read(length), b""))


def small(folder, announce, count):
    """`count` torrents of one file of 256 KiB in pieces of 16 KiB."""
    made = Set(folder, announce)
    for n in range(0 if made.done else count):
        name = f"small{n:04}"
        with open(f"{made.data}/{name}", "wb") as file:
            file.write(os.urandom(1 << 18))
        pieces = pieces_of(f"{made.data}/{name}", 1 << 14)
        made.add({"name": name, "length": 1 << 18, "piece length": 1 << 14, "pieces": pieces})
    return made.close()


def sparse(folder, announce, piece_length):
    """1000 torrents of 4096 pieces of zeros, sparse on disk; every twentieth has 500 files."""
    made = Set(folder, announce)
    pieces = hashlib.sha1(bytes(piece_length)).digest() * 4096
    for n in range(0 if made.done else 1000):
        name, total = f"sparse{n:04}", 4096 * piece_length
        info = {"name": name, "piece length": piece_length, "pieces": pieces}
        if n % 20:
            info["length"] = total
            hole(f"{made.data}/{name}", total)
        else:
            lengths = [total // 500] * 499
            lengths.append(total - sum(lengths))
            os.makedirs(f"{made.data}/{name}", exist_ok=True)
            for number, length in enumerate(lengths):
                hole(f"{made.data}/{name}/{number:03}", length)
            info["files"] = [{"length": length, "path": [f"{number:03}"]} for number, length in enumerate(lengths)]
        made.add(info)
    return made.close()


def hole(path, length):
    with open(path, "wb") as file:
        file.truncate(length)


def big(folder, announce, mebibytes, piece_length=1 << 18, content=None):
    """One torrent of one file of noise, or of that of another such set."""
    made = Set(folder, announce)
    made.path, made.piece_length, made.total = made.data + "/big", piece_length, mebibytes << 20
    if content and not made.done:
        os.link(content.path, made.path)
    elif not made.done:
        with open(made.path, "wb") as file:
            for _ in range(mebibytes):
                file.write(os.urandom(1 << 20))
            os.fsync(file.fileno())
    made.pieces = made.total // made.piece_length
    pieces = pieces_of(made.path, made.piece_length)
    made.digests = folder + "/digests"
    with open(made.digests, "wb") as file:
        file.write(pieces)
    made.add({"name": "big", "length": made.total, "piece length": made.piece_length, "pieces": pieces})
    return made.close()
