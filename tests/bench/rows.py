"""The rows of the table: each measures one thing on every seeder that it names, and says what was asked for."""

import json
import re
import shutil
import statistics
import subprocess
import time

import measure
import seeders
import torrents
from seeders import Seeder

QUIET, STRANGERS, OFTEN = 6969, 6970, 6971  # trackers: names nobody; names 50; names nobody, interval 300 s
GIB = 1 << 30


class Bench:
    """What all rows share: folders, binaries, and the figures so far."""

    def __init__(self, options, work, memory, binaries):
        self.options, self.work, self.memory, self.binaries = options, work, memory, binaries
        self.ports = iter(range(21000, 32000, 3))
        self.figures = []

    def seeder(self, name, made, keep=None, port=None, **more):
        """Starts a seeder by its name, in a fresh state folder or that of an earlier one."""
        if name == "floorseed":
            return Floor(self, made, more.get("enter"))
        port = port or next(self.ports)
        known = {"meshseed": seeders.meshseed, "musl": seeders.meshseed}
        command = known[name](self.binaries[name]) if name in known else getattr(seeders, name)
        return Seeder(name, command, made, port, keep or f"{self.work}/state/{name}-{port}", **more)

    def each(self, names, made, take, tracker=QUIET, count=1, **more):
        """The figure that `take` gets of each seeder once it has announced `count` torrents; none where a foreign one
        does not come to it."""
        figures = {}
        for name in names:
            seeder = self.seeder(name, made, **more)
            try:
                seeder.wait(tracker, count)
                figures[name] = take(seeder)
            except RuntimeError as error:
                if name in self.binaries:
                    raise
                print(f"  {error}")
                figures[name] = None
            finally:
                seeder.stop()
        return figures

    def ours(self):
        return list(self.binaries)

    def others(self, *names):
        """Those of the foreign seeders that are installed and wanted."""
        programs = {"transmission": "transmission-daemon", "aria2": "aria2c"}
        found = [name for name in names if name == "libtorrent" or shutil.which(programs.get(name, name))]
        wanted = self.options.peers.split(",")
        return [name for name in found if name in wanted or "all" in wanted]

    def says(self, row, what, most, unit, figures):
        """One line of the table: `figures` by the name of the seeder."""
        self.figures.append((row, what, most, unit, figures))
        values = ", ".join(f"{name} {shown(value)}" for name, value in figures.items())
        print(f"  {what}: {values} {unit}", flush=True)

    def tmpfs(self, name, maker, *arguments):
        return maker(f"{self.memory}/{name}", f"http://{seeders.ADDRESS}:{QUIET}/announce", *arguments)

    def disk(self, name, maker, *arguments, tracker=QUIET):
        return maker(f"{self.work}/{name}", f"http://{seeders.ADDRESS}:{tracker}/announce", *arguments)


def shown(value):
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) and value < 10 else f"{value:.0f}"


def leech_beside(bench, seeder_port, made, connections, **options):
    """Starts `leech` against a seeder."""
    words = {
        "H": seeders.ADDRESS, "p": seeder_port, "i": made.one, "P": made.pieces, "l": made.piece_length,
        "t": made.total, "n": connections, "q": 64, "T": 60, "s": f"10.77.{10 + connections % 90}.0", **options,
    }
    flat = [str(word) for key, value in words.items() for word in ("-" + key, value)]
    return subprocess.Popen([bench.work + "/leech", *flat], stdout=subprocess.PIPE, text=True)


def leech(*arguments, **options):
    """Runs `leech` to its end; its answer."""
    return json.loads(leech_beside(*arguments, **options).communicate()[0])


class Floor:
    """The floor: `floorseed preadbatch` on the same file."""

    def __init__(self, bench, made, enter=None, mode="preadbatch", before=()):
        self.port = next(bench.ports)
        numbers = [made.one, made.pieces, made.total, made.piece_length]
        words = [*before, bench.work + "/floorseed", self.port, *numbers, made.path, mode]
        self.process = subprocess.Popen(list(map(str, words)), preexec_fn=enter)
        self.pid, self.name = self.process.pid, "floorseed"

    def wait(self, *_):
        time.sleep(0.5)

    def stop(self):
        self.process.kill()
        self.process.wait()


def memory(bench):
    """Resident and private memory with 1000 idle torrents, after a restart with valid records."""
    hard = bench.disk("sparse", torrents.sparse, 128 if bench.options.quick else 1 << 14, tracker=STRANGERS)
    easy = bench.tmpfs("small", torrents.small, 1000)
    keep = f"{bench.work}/state/memory"
    first = bench.seeder("meshseed", hard, keep=keep)
    first.wait(STRANGERS, 1000, 1200)
    print(f"  first start, everything hashed: {measure.cpu(first.pid):.1f} s of processor time")
    first.stop()

    def settled(seeder):
        time.sleep(30)
        return measure.memory(seeder.pid)

    found = bench.each(bench.ours(), hard, settled, STRANGERS, 1000, keep=keep)
    found |= bench.each(bench.others("transmission", "libtorrent"), easy, settled, QUIET, 1000)
    resident, private = ({name: took and took[at] / 1024 for name, took in found.items()} for at in (0, 1))
    most = {"meshseed": 5, "musl": 3.5}
    bench.says("memory", "resident, 1000 idle torrents (others: an easier case)", most, "MiB", resident)
    bench.says("memory", "private dirty, 1000 idle torrents", 1.8, "MiB", private)


def peers(bench):
    """Private memory of a connected idle peer, at 1000."""
    made = bench.tmpfs("big", torrents.big, 1024)

    def take(seeder):
        leech(bench, seeder.port, made, 4, b=1 << 24, T=10)
        time.sleep(3)
        before = measure.memory(seeder.pid)[1]
        crowd = leech_beside(bench, seeder.port, made, 1000, m="idle", T=20)
        time.sleep(15)
        after = measure.memory(seeder.pid)[1]
        shaken = json.loads(crowd.communicate()[0])["shaken"]
        return (after - before) / shaken if shaken > 900 else None

    figures = bench.each(bench.ours() + bench.others("ctorrent", "libtorrent", "transmission"), made, take, slots=14)
    bench.says("peers", "private memory of an idle peer, at 1000", 1.5, "KiB", figures)


def wakeups(bench):
    """Context switches a second of all threads, 100 idle torrents on a tracker with interval 300, all seeders in the
    same window."""
    made = bench.disk("hundred", torrents.small, 100, tracker=OFTEN)
    names = bench.ours() + bench.others("transmission", "aria2")
    running = [bench.seeder(name, made) for name in names]
    for seeder in running:
        seeder.wait(OFTEN, 100)
    time.sleep(20)
    seconds = round(bench.options.minutes * 60)
    rates = measure.switches([seeder.pid for seeder in running], seconds)
    for seeder in running:
        seeder.stop()
    figures = dict(zip(names, rates))
    most = min(3, figures.get("transmission", 30) / 10)
    bench.says("wakeups", f"context switches over {seconds} s, 100 idle torrents", most, "a second", figures)


def cpu(bench):
    """Processor seconds a GiB uploaded with 64 requests outstanding, as a ratio to the floor next to each run."""
    foreign = bench.others("ctorrent", "rtorrent")
    sets = {"tmpfs": bench.tmpfs("big", torrents.big, 1024), "disk, cached": bench.disk("big", torrents.big, 1024)}
    for place, made in sets.items():
        for connections in (1, 50):
            floors = []

            def take(seeder):
                floor = Floor(bench, made)
                leech(bench, seeder.port, made, connections, b=GIB // 4)  # warm, and its slots given
                ratios = []
                for _ in range(bench.options.repeat):
                    ours, least = (per_gib(bench, one, made, connections) for one in (seeder, floor))
                    ratios.append(ours / least)
                    floors.append(least)
                floor.stop()
                return statistics.median(ratios)

            figures = bench.each(bench.ours() + (foreign if place == "tmpfs" else []), made, take)
            figures["floorseed, s"] = statistics.median(floors)
            what = f"processor time a GiB uploaded, {connections} connections, {place}"
            bench.says("cpu", what, 1.3, "x floorseed", figures)


def per_gib(bench, seeder, made, connections):
    before = measure.cpu(seeder.pid)
    got = leech(bench, seeder.port, made, connections, b=2 * GIB)["bytes"]
    if got < GIB // 64:
        raise RuntimeError(f"{seeder.name} uploaded {got} bytes to {connections} connections")
    return (measure.cpu(seeder.pid) - before) / (got / GIB)


def reads(bench):
    """Bytes read from files for each byte sent: 50 peers of 2 Mbit/s with 64 requests outstanding."""
    made = bench.disk("big", torrents.big, 1024)

    def take(seeder):
        measure.out_of_cache(made.path)
        before = measure.bytes_read(seeder.pid)
        answer = leech(bench, seeder.port, made, 50, r=250_000, T=bench.options.seconds)
        after = measure.bytes_read(seeder.pid)
        asked, fetched = ((end - start) / answer["bytes"] for start, end in zip(before, after))
        rate = answer["bytes"] / answer["seconds"] / 12_500_000
        print(f"  {seeder.name}: {rate:.0%} of the rate, {fetched:.2f} bytes fetched from the disk a byte sent")
        return asked

    figures = bench.each(bench.ours() + ["floorseed"] + bench.others("ctorrent", "libtorrent"), made, take)
    bench.says("reads", "bytes read from files a byte sent, 50 x 2 Mbit/s", 1.05, "", figures)


def cgroup(bench):
    """The two cases of uploading, from a cold disk, in a memory cgroup of 32 MiB: it lives, and is as fast as without."""
    made = bench.disk("big", torrents.big, 1024)
    cases = {"50 fast peers": {"b": GIB * 3 // 4}, "50 x 2 Mbit/s": {"r": 250_000, "T": bench.options.seconds}}
    for what, options in cases.items():
        rates = []
        for limit in (None, 32 << 20):
            group = limit and measure.Cgroup(limit)

            def take(seeder):
                measure.out_of_cache(made.path)
                answer = leech(bench, seeder.port, made, 50, **options)
                killed = seeder.process.poll() is not None or (group and group.kills())
                return 0.0 if killed else answer["bytes"] / answer["seconds"] / 1e6

            names = bench.ours() + ["floorseed"]
            rates.append(bench.each(names, made, take, enter=group.enter if group else None))
            print(f"  {what}, {'32 MiB' if limit else 'no limit'}, MB/s: {rates[-1]}")
            if group:
                group.remove()
        figures = {name: rate / rates[0][name] for name, rate in rates[1].items()}
        bench.says("cgroup", f"rate in a cgroup of 32 MiB, {what}", (0.8,), "x without", figures)


def peak(bench):
    """Peak resident memory while uploading to 50 connections."""
    made = bench.tmpfs("big", torrents.big, 1024)

    def take(seeder):
        measure.forget_peak(seeder.pid)
        leech(bench, seeder.port, made, 50, b=2 * GIB, T=30)
        return measure.memory(seeder.pid)[2] / 1024

    names = bench.ours() + ["floorseed"] + bench.others("ctorrent", "transmission", "rtorrent")
    bench.says("peak", "peak resident, uploading to 50", 5, "MiB", bench.each(names, made, take))


def start(bench):
    """Processor time to start 1000 torrents of 256 KiB, with the check and with records; and fsyncs."""
    made = bench.tmpfs("small", torrents.small, 1000)
    names = bench.ours() + bench.others("libtorrent", "aria2")
    taken = {name: ([], []) for name in names}

    def take(seeder):
        return measure.cpu(seeder.pid)

    for n in range(bench.options.repeat):
        for name in names:
            for figures in taken[name]:
                keep = f"{bench.work}/state/start-{name}-{n}"
                figures.append(bench.each([name], made, take, QUIET, 1000, keep=keep)[name])
    medians = [{name: median(taken[name][at]) for name in names} for at in (0, 1)]

    def written(seeder):
        time.sleep(15)  # The records follow a little later.

    trace = ["strace", "-f", "-o", bench.work + "/strace", "-e", "trace=fsync,fdatasync,sync,syncfs,sync_file_range"]
    syncs = {}
    for name in bench.ours():
        bench.each([name], made, written, QUIET, 1000, before=trace)
        syncs[name] = len(re.findall(r"sync\w*\(", measure.read(bench.work + "/strace")))
    bench.says("start", "processor time to start 1000 torrents, with check", 0.45, "s", medians[0])
    bench.says("start", "processor time to start 1000 torrents, with records", 0.15, "s", medians[1])
    bench.says("start", "fsyncs from start to end, with check", 20, "", syncs)


def median(figures):
    return None if None in figures else statistics.median(figures)


ROWS = {row.__name__: row for row in (memory, peers, wakeups, cpu, reads, cgroup, peak, start)}

