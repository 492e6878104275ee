"""The rows of downloading: each client fetches what floorseed gives, or what comes over a narrow link; none is counted
that does not end with the right content."""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time

import measure
import torrents
from rows import QUIET, Floor, median
from seeders import ADDRESS, ask

NEAR, FAR = "10.78.0.1", "10.79.0.2"  # the ends of the link
RAW = "import socket, sys; s = socket.create_server((sys.argv[1], 9)); s.accept()[0].sendfile(open(sys.argv[2], 'rb'))"


class Namespace:
    """A network namespace that ends with the process that holds it; that one ends with this."""

    def __init__(self):
        self.holder = subprocess.Popen("setpriv --pdeathsig KILL unshare --net sleep 3600".split())
        there = f"/proc/{self.holder.pid}/ns/net"
        stop = time.time() + 10
        while os.readlink(there) == os.readlink("/proc/self/ns/net") and time.time() < stop:
            time.sleep(0.01)
        self.enter = ["nsenter", f"--net={there}"]

    def close(self):
        self.holder.kill()
        self.holder.wait()


class Link:
    """A link of so many Mbit/s, towards us, with a queue of 300 ms. The queue is that of a router in between: a sender would
    see one of its own, and keep it short."""

    def __init__(self, megabits):
        self.router, self.far = Namespace(), Namespace()
        self.enter = self.far.enter
        here = f"""
ip link add near type veth peer name near-end netns {self.router.holder.pid}
ip address add {NEAR}/24 dev near
ip link set near up
ip route add 10.79.0.0/16 via 10.78.0.2"""
        router = f"""
ip link add far type veth peer name far-end netns {self.far.holder.pid}
ip address add 10.78.0.2/24 dev near-end
ip address add 10.79.0.1/24 dev far
ip link set near-end up
ip link set far up
ip route add {ADDRESS} via {NEAR}
ip route add 10.79.1.0/24 via {FAR}
sysctl --quiet net.ipv4.ip_forward=1
tc qdisc add dev near-end root tbf rate {megabits}mbit burst 16kb latency 300ms"""
        # What the machine's owner prefers may keep queues short (BBR); what fills them is what most peers send with.
        far = f"""
ip link set lo up
ip address add {FAR}/24 dev far-end
ip link set far-end up
ip address add 10.79.1.0/24 dev lo
ip route add default via 10.79.0.1 congctl cubic"""
        for lines, enter in ((here, []), (router, self.router.enter), (far, self.enter)):
            for line in filter(None, lines.split("\n")):
                subprocess.run(enter + line.split(), check=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.far.close()
        self.router.close()
        subprocess.run("ip link delete near".split(), stderr=subprocess.DEVNULL)


class Seeds:
    """One floorseed that is `count` peers, as it is reached at so many addresses; here or at the end of a link."""

    def __init__(self, bench, made, count, link=None):
        self.floor = Floor(bench, made, mode="mmapbatch", before=link.enter if link else ())
        self.peers = [f"{'10.79.1' if link else '10.77.5'}.{n + 1}:{self.floor.port}" for n in range(count)]

    def __enter__(self):
        self.floor.wait()
        return self.peers

    def __exit__(self, *_):
        self.floor.stop()


class Fetched:
    """What a client took from the moment it was told of the peers: seconds, processor seconds, and its peaks in MiB since
    it started. `port` is the tracker's name of it."""

    def __init__(self, bench, name, made, peers, patience=300):
        port, folder = next(bench.ports), bench.memory + "/fetched"
        ask(QUIET, "hold", port)
        client = bench.seeder(name, made.into(folder), port=port, peers=100)
        try:
            self.until(client, lambda: ask(QUIET, "held", port), 60)
            before = measure.cpu(client.pid)
            ask(QUIET, "release", port, "&peers=" + ",".join(peers))
            start, self.anonymous = time.time(), 0
            whole = Whole(folder + "/big", made)
            self.until(client, lambda: self.sample(client) or ask(QUIET, "took", port) or whole.seen(), patience)
            self.seconds = ask(QUIET, "took", port) / 1000 or time.time() - start
            time.sleep(1)  # What it does afterwards is part of it.
            self.cpu = measure.cpu(client.pid) - before
            self.resident = measure.memory(client.pid)[2] / 1024
            if not is_same(folder + "/big", made):
                raise RuntimeError(f"{name} says that it has everything, and its file is another")
        finally:
            client.stop()
            shutil.rmtree(folder)

    def until(self, client, done, patience):
        stop = time.time() + patience
        while not done():
            if client.process.poll() is not None or time.time() > stop:
                raise RuntimeError(f"{client.name} did not come to the end; see its log in the work folder")
            time.sleep(0.05)

    def sample(self, client):
        self.anonymous = max(self.anonymous, measure.anonymous(client.pid) / 1024)


class Whole:
    """For rtorrent, which does not announce that it has everything: whether a file has its content, looked at when it
    has not changed for a while."""

    def __init__(self, path, made):
        self.path, self.made, self.last, self.since = path, made, None, time.time()

    def seen(self):
        changed = os.path.exists(self.path) and os.stat(self.path).st_mtime
        if changed != self.last or not changed:
            self.last, self.since = changed, time.time()
        if time.time() - self.since < 3:
            return False
        self.since = time.time()
        return is_same(self.path, self.made)


def is_same(path, made):
    return os.path.exists(path) and subprocess.run(["cmp", "--quiet", made.path, path]).returncode == 0


def fetched(bench, name, *arguments):
    """None where a foreign client does not come to the end."""
    try:
        return Fetched(bench, name, *arguments)
    except RuntimeError as error:
        if name in bench.binaries:
            raise
        print(f"  {error}")
        return None


def floorleech(bench, made, peers):
    """Processor seconds of the floor."""
    target = bench.memory + "/floor"
    numbers = [made.one, made.pieces, made.total, made.piece_length]
    words = [bench.work + "/floorleech", *numbers, made.digests, target, *peers]
    answer = json.loads(subprocess.run(list(map(str, words)), check=True, stdout=subprocess.PIPE).stdout)
    os.remove(target)
    return answer["user"] + answer["system"]


def download(bench):
    """Processor seconds a GiB downloaded, from 1 seed and from 8, as a ratio to the floor next to each run."""
    made = bench.tmpfs("big", torrents.big, 1024)
    foreign = bench.others("libtorrent", "aria2", "transmission", "rtorrent")
    for count in (1, 8):
        ratios, floors = {}, []
        with Seeds(bench, made, count) as peers:
            floorleech(bench, made, peers)  # Memory that the machine has not used before costs more.
            for name in bench.ours() + foreign:
                runs = []
                for _ in range(bench.options.repeat):
                    run = fetched(bench, name, made, peers)
                    if not run:
                        break
                    floors.append(floorleech(bench, made, peers))
                    runs.append((run.cpu / floors[-1], run.cpu, run.seconds))
                else:
                    ratio, cpu, seconds = map(statistics.median, zip(*runs))
                    print(f"  {name}, {count} seeds: {cpu:.2f} s of processor time in {seconds:.1f} s, {ratio:.2f} x floor", flush=True)
                    ratios[name] = ratio
        best = min([1.25] + [ratios[name] for name in foreign if name in ratios])
        ratios["floorleech, s"] = statistics.median(floors)
        bench.says("download", f"processor time a GiB downloaded, {count} seeds", best, "x floorleech", ratios)


def fetching(bench):
    """Peak memory, resident and of that anonymous, while downloading from 40 peers, by the length of the pieces; for the
    middle one over a link of 100 Mbit/s as well."""
    content = bench.tmpfs("big", torrents.big, 1024)
    names = bench.ours() + bench.others("aria2", "transmission")
    cases = [(1 << 14, None), (1 << 22, None), (1 << 22, 100), (1 << 24, None)]
    for piece_length, megabits in cases:
        case = f"{piece_length >> 10} KiB pieces" + (f", {megabits} Mbit/s" if megabits else "")
        if megabits:
            short = bench.tmpfs("short", torrents.big, 256)
            made = bench.tmpfs(f"short-{piece_length}", torrents.big, 256, piece_length, short)
            with Link(megabits) as link, Seeds(bench, made, 40, link) as peers:
                runs = {name: fetched(bench, name, made, peers) for name in names}
        else:
            made = bench.tmpfs(f"big-{piece_length}", torrents.big, 1024, piece_length, content)
            with Seeds(bench, made, 40) as peers:
                runs = {name: fetched(bench, name, made, peers) for name in names}
        for what in ("resident", "anonymous"):
            figures = {name: run and getattr(run, what) for name, run in runs.items()}
            bench.says("fetching", f"peak {what}, from 40 peers, {case}", 7, "MiB", figures)


def goodput(bench):
    """Content a second over a link of 20 Mbit/s with a queue of 300 ms, as a share of what a plain TCP connection carries:
    from floorseed, from libtorrent, and from both."""
    made = bench.tmpfs("narrow", torrents.big, 48)
    with Link(20) as link:
        raw = statistics.median(plain(link, made) for _ in range(bench.options.repeat))
        print(f"  plain TCP: {raw * 8e-6:.2f} Mbit/s", flush=True)
        with Seeds(bench, made, 1, link) as floor:
            words = dict(before=link.enter, address=FAR)
            other = bench.seeder("libtorrent", made, **words)
            try:
                other.wait(QUIET, 1)
                theirs = [f"{FAR}:{other.port}"]
                for what, peers in (("floorseed", floor), ("libtorrent", theirs), ("both", floor + theirs)):
                    names = bench.ours() + (bench.others("libtorrent", "aria2", "transmission") if what == "both" else [])
                    shares = {}
                    for name in names:
                        times = bench.options.repeat if name in bench.binaries else 1
                        runs = [fetched(bench, name, made, peers) for _ in range(times)]
                        shares[name] = median([run and 100 * made.total / run.seconds / raw for run in runs])
                    bench.says("goodput", f"goodput over 20 Mbit/s, 300 ms queue, from {what}", (95,), "% of plain TCP", shares)
            finally:
                other.stop()


def plain(link, made):
    """Bytes a second of one connection that carries the content and nothing else."""
    sender = subprocess.Popen([*link.enter, sys.executable, "-c", RAW, FAR, made.path])
    try:
        for _ in range(100):
            try:
                start = time.monotonic()
                connection = socket.create_connection((FAR, 9), timeout=60)
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        with connection:
            while connection.recv(1 << 16):
                pass
        return made.total / (time.monotonic() - start)
    finally:
        sender.kill()
        sender.wait()


ROWS = {row.__name__: row for row in (download, fetching, goodput)}
