"""The rows of finding peers: what trackers, the DHT and Local Peer Discovery take, and how long they need."""

import asyncio
import os
import statistics
import subprocess
import sys
import threading
import time

import measure
import torrents
from fetching import Namespace
from rows import OFTEN, QUIET
from seeders import ADDRESS, HERE

DELAYED, SILENT = 6972, 6973  # a tracker behind 100 ms, and one that takes connections and never answers
ROUTES = ("-4 route replace local 10.90.0.0/16 dev lo", "-6 route replace local fd90::/64 dev lo")
ENTRIES = ("10.90.0.1:6881", "[fd90::1]:6881")


def ip(words, before=()):
    subprocess.run([*before, "ip", *words.split()], check=True)


class Cable:
    """A namespace of its own at the other end of a cable from here; or from another one, where nobody else is on it."""

    def __init__(self, number, other=None):
        self.space = Namespace()
        self.enter, self.near = self.space.enter, f"cable{number}"
        self.before = other.enter if other else []
        self.addresses = [f"10.91.{number}.2", f"fd91:{number}::2"]
        ip(f"link add {self.near} type veth peer name cable netns {self.space.holder.pid}", self.before)
        for end, device, before in ((1, self.near, self.before), (2, "cable", self.enter)):
            ip(f"address add 10.91.{number}.{end}/24 dev {device}", before)
            ip(f"address add fd91:{number}::{end}/64 dev {device} nodad", before)
            ip(f"link set {device} up", before)
        ip("link set lo up", self.enter)
        for version, router in ((4, f"10.91.{number}.1"), (6, f"fd91:{number}::1")):
            ip(f"-{version} route add default via {router}", self.enter)

    def plug(self, way):
        ip(f"link set {self.near} {way}", self.before)

    def close(self):
        ip(f"link delete {self.near}", self.before)  # A namespace takes its time to go.
        self.space.close()


class Nodes:
    """A DHT of so many nodes, which answer and never ask."""

    def __init__(self, count):
        for route in ROUTES:
            ip(route)
        self.process = subprocess.Popen([sys.executable, HERE + "/dhtnodes.py", str(count)])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


class Delayed:
    """A proxy between us and a tracker that delays all bytes by half of `delay` each way, and counts connections. Beside it
    one that answers nobody. They run in a thread of their own."""

    def __init__(self, delay):
        self.delay, self.asked, self.connections, self.open, self.most = delay / 2, 0, 0, 0, 0
        self.over = asyncio.Event()
        self.thread = threading.Thread(target=asyncio.run, args=[self.listen()])

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        time.sleep(5 * self.delay)  # What is on its way arrives.
        self.loop.call_soon_threadsafe(self.over.set)
        self.thread.join()

    async def listen(self):
        self.loop = asyncio.get_running_loop()
        answers = await asyncio.start_server(self.serve, ADDRESS, DELAYED)
        silent = await asyncio.start_server(self.ignore, ADDRESS, SILENT)
        async with answers, silent:
            await self.over.wait()

    async def serve(self, reader, writer):
        self.connections += 1
        self.open += 1
        self.most = max(self.most, self.open)
        there, tracker = await asyncio.open_connection(ADDRESS, QUIET)
        back = asyncio.create_task(self.carry(there, writer))
        await self.carry(reader, tracker)
        self.open -= 1
        await back

    async def carry(self, reader, writer):
        while chunk := await read(reader):
            if b"GET /announce" in chunk:
                self.asked += 1
            self.loop.call_later(self.delay, writer.write, chunk)
        self.loop.call_later(self.delay, writer.close)

    async def ignore(self, reader, writer):
        while await read(reader):
            pass
        writer.close()


async def read(reader):
    try:
        return await reader.read(1 << 16)
    except ConnectionError:
        return b""


def trackers(bench):
    """Until 1000 torrents are announced at one tracker behind 100 ms, each second one first at another that never answers;
    and what connections that takes."""
    urls = [f"http://{ADDRESS}:{port}/announce" for port in (DELAYED, SILENT)]
    made = torrents.small(bench.memory + "/two-trackers", urls, 1000)
    figures = [{}, {}, {}]
    for name in bench.ours():
        with Delayed(0.1) as proxy:
            seeder = bench.seeder(name, made)
            try:
                figures[0][name] = seeder.wait(QUIET, 1000, 400)
                time.sleep(10)  # The connection may be used for a little longer.
            finally:
                seeder.stop()
            figures[1][name], figures[2][name] = proxy.most, proxy.connections
            print(f"  {name}: {proxy.asked} announces over {proxy.connections} connections, that of the end included")
    bench.says("trackers", "until 1000 torrents are announced, 100 ms, and a dead tracker", 150, "s", figures[0])
    bench.says("trackers", "connections to the tracker at a time", 1, "", figures[1])
    bench.says("trackers", "connections to the tracker, that of the end included", 2, "", figures[2])


def idle(bench):
    """Context switches a second of all threads, 100 idle torrents on a tracker with interval 300, DHT and LPD on, each seeder at
    the end of a cable of its own, a DHT of 200 nodes that ask nothing; all seeders in the same window."""
    made = bench.disk("hundred", torrents.small, 100, tracker=OFTEN)
    names = bench.ours() + bench.others("aria2")
    cables, running = [Cable(n) for n, _ in enumerate(names)], []
    try:
        with Nodes(200):
            for name, cable in zip(names, cables):
                more = {"addresses": cable.addresses, "dht": ENTRIES, "lpd": True}
                running.append(bench.seeder(name, made, before=cable.enter, **more))
            for seeder in running:
                seeder.wait(OFTEN, 100)
            time.sleep(20)
            seconds = round(bench.options.minutes * 60)
            figures = dict(zip(names, measure.switches([seeder.pid for seeder in running], seconds)))
    finally:
        for seeder in running:
            seeder.stop()
        for cable in cables:
            cable.close()
    most = figures.get("aria2", 40)
    bench.says("idle", f"context switches over {seconds} s, 100 torrents, DHT and LPD", most, "a second", figures)


def tables(bench):
    """Memory that DHT and LPD add with 1000 torrents and full tables, in a DHT of 4096 nodes of both families: private and
    resident, of two that run side by side."""
    made = bench.tmpfs("small", torrents.small, 1000)
    private, resident = {}, {}
    for name in bench.ours():
        cables, running = [Cable(n) for n in range(2)], []
        try:
            with Nodes(4096):
                for cable, finds in zip(cables, (False, True)):
                    more = {"dht": ENTRIES, "lpd": True} if finds else {}
                    running.append(bench.seeder(name, made, before=cable.enter, addresses=cable.addresses, **more))
                for seeder in running:
                    seeder.wait(QUIET, 1000)
                time.sleep(bench.options.minutes * 60)
                without, with_ = (measure.memory(seeder.pid) for seeder in running)
                print(f"  {name}: {running[1].says('status')['dht']}")
        finally:
            for seeder in running:
                seeder.stop()
            for cable in cables:
                cable.close()
        resident[name], private[name] = (after - before for before, after in zip(without[:2], with_[:2]))
    for what, figures in (("private dirty", private), ("resident", resident)):
        bench.says("tables", f"{what} memory that DHT and LPD add, 1000 torrents", 512, "KiB", figures)


def neighbours(bench):
    """Until two that have the same torrent, one of them nothing of it yet, are connected by LPD after the cable was plugged
    in."""
    made = torrents.small(bench.memory + "/neighbours", None, 1)
    figures = {}
    for name in bench.ours():
        runs = []
        for n in range(bench.options.repeat):
            near = Cable(0)
            far, running = Cable(1, near), []
            try:
                far.plug("down")
                ends = ((near, far.addresses[0].replace(".2", ".1"), made), (far, far.addresses[0], None))
                for cable, address, has in ends:
                    wanted = has or made.into(f"{bench.memory}/found-{name}-{n}")
                    more = {"addresses": [address], "lpd": True, "before": cable.enter}
                    running.append(bench.seeder(name, wanted, **more))
                for seeder in running:
                    seeder.until(lambda: works(seeder), 30)
                time.sleep(3)
                far.plug("up")
                runs.append(running[1].until(lambda: connected(running[1]), 90))
            finally:
                for seeder in running:
                    seeder.stop()
                far.close()
                near.close()
        print(f"  {name}: {', '.join(f'{run:.2f}' for run in runs)} s")
        figures[name] = statistics.median(runs)
    bench.says("neighbours", "until two find each other by LPD, cable in", 3, "s", figures)


def lookup(bench):
    """Until a trackerless torrent's peer is found and connected, from the start of the one who seeks, through a DHT of eight:
    six of libtorrent, one who has the torrent, and one who seeks it and knows one of the six."""
    made = torrents.small(bench.memory + "/trackerless", None, 1)
    others = [f"10.77.8.{n}" for n in range(1, 7)]
    figures = {}
    for name in bench.ours():
        runs = []
        for n in range(bench.options.repeat):
            dht = subprocess.Popen([os.environ["PYTHON"], HERE + "/libtorrent_dht.py", "6881", *others])
            running = []
            try:
                time.sleep(5)
                wanted = made.into(f"{bench.memory}/sought-{name}-{n}")
                for at, has in ((7, made), (8, wanted)):
                    more = {"addresses": [f"10.77.8.{at}"], "dht": [others[at % 2] + ":6881"]}
                    running.append(bench.seeder(name, has, **more))
                    if has is made:
                        running[0].until(lambda: works(running[0]), 30)
                        time.sleep(20)  # It has been announced by then.
                runs.append(running[1].until(lambda: connected(running[1]), 120))
            finally:
                for seeder in running:
                    seeder.stop()
                dht.kill()
                dht.wait()
        print(f"  {name}: {', '.join(f'{run:.2f}' for run in runs)} s")
        figures[name] = statistics.median(runs)
    bench.says("lookup", "until a peer is found through a DHT of eight", 10, "s", figures)


def works(seeder):
    status = seeder.says("status")
    return status and status["torrents"]["seeding"] + status["torrents"]["downloading"] > 0


def connected(seeder):
    status = seeder.says("status")
    return status and (status["peers"] > 0 or status["torrents"]["seeding"] > 0)


ROWS = {row.__name__: row for row in (trackers, idle, tables, neighbours, lookup)}
