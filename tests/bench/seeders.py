"""How each seeder is started: in the foreground, on one port of 10.77.0.1, quiet but for the HTTP tracker."""

import contextlib
import glob
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request

import measure

ADDRESS = "10.77.0.1"
HERE = os.path.dirname(os.path.abspath(__file__))


def meshseed(binary):
    def command(port, made, state, peers, slots, addresses=(ADDRESS,), dht=(), lpd=False):
        """`dht`: nodes to begin with; none for no DHT."""
        config = f"{state}/meshseed.toml"
        with open(config, "w") as file:
            file.write(f"""
torrents = ["{made.torrents}"]
data     = "{made.data}"
layout   = "name"
state    = "{state}/records"
control  = "{state}/control.sock"
rescan   = 60
[listen]
port      = "{port}"
addresses = {json.dumps(addresses)}
[limits]
peers               = {peers}
peers-per-torrent   = {peers}
uploads             = {slots}
uploads-per-torrent = {slots}
[dht]
enabled   = {json.dumps(bool(dht))}
bootstrap = {json.dumps(dht)}
[lpd]
enabled = {json.dumps(lpd)}
[log]
to = "stderr"
""")
        os.makedirs(f"{state}/records", exist_ok=True)
        return [binary, "daemon", "-c", config]
    return command


def transmission(port, made, state, peers, slots):
    if not os.path.exists(state + "/watched"):
        shutil.copytree(made.torrents, state + "/watched")
        settings = {
            "peer-port": port, "bind-address-ipv4": ADDRESS, "download-dir": made.data, "rpc-enabled": False,
            "watch-dir": state + "/watched", "watch-dir-enabled": True, "start-added-torrents": True,
            "dht-enabled": False, "lpd-enabled": False, "utp-enabled": False, "port-forwarding-enabled": False,
            "encryption": 0, "upload-slots-per-torrent": slots, "peer-limit-global": peers,
            "peer-limit-per-torrent": peers, "download-queue-enabled": False, "seed-queue-enabled": False,
        }
        with open(state + "/settings.json", "w") as file:
            json.dump(settings, file)
    return ["transmission-daemon", "--foreground", "--config-dir", state]


def aria2(port, made, state, peers, slots, addresses=(ADDRESS,), dht=(), lpd=False):
    options = [
        "--no-conf", "--quiet", "--dir=" + made.data, f"--listen-port={port}", f"--interface={addresses[0]}", "-j2000",
        "--seed-ratio=0", "--enable-dht=" + json.dumps(bool(dht)), "--bt-enable-lpd=" + json.dumps(lpd), "--disable-ipv6",
        "--file-allocation=none", f"--bt-max-peers={peers}", "--auto-save-interval=0", "--check-integrity",
        f"--dht-file-path={state}/dht", f"--dht-listen-port={port}", *(f"--dht-entry-point={node}" for node in dht[:1]),
    ]
    return ["aria2c", *options, *sorted(glob.glob(made.torrents + "/*"))]


def rtorrent(port, made, state, peers, slots):
    if not os.path.exists(state + "/session"):
        os.makedirs(state + "/session")
        shutil.copytree(made.torrents, state + "/watched")
    with open(state + "/rc", "w") as file:
        file.write(f"""
system.daemon.set = true
directory.default.set = {made.data}
session.path.set = {state}/session
network.port_range.set = {port}-{port}
network.bind_address.set = {ADDRESS}
network.local_address.set = {ADDRESS}
dht.mode.set = disable
dht.port.set = 0
protocol.pex.set = no
trackers.use_udp.set = no
throttle.max_uploads.set = {slots}
throttle.max_uploads.global.set = {slots}
throttle.max_peers.seed.set = {peers}
throttle.max_peers.normal.set = {peers}
schedule2 = watch, 1, 3600, load.start={state}/watched/*.torrent
""")
    return ["rtorrent", "-n", "-o", f"import={state}/rc"]


def ctorrent(port, made, state, peers, slots):
    """One torrent a process; without its hash check, after which it does not announce."""
    torrent = glob.glob(made.torrents + "/*")[0]
    name = os.path.basename(torrent).removesuffix(".torrent")
    data = f"{made.data}/{name}"
    return ["ctorrent", "-f", "-e", "9999", "-E", "9999", "-M", str(min(peers, 1000)), "-p", str(port), "-i", ADDRESS, "-s", data, torrent]


def libtorrent(port, made, state, peers, slots, address=ADDRESS):
    return [os.environ["PYTHON"], HERE + "/libtorrent_seed.py", str(port), made.torrents, made.data, state, address]


class Seeder:
    """A running seeder. Its state folder survives it, for a restart."""

    def __init__(self, name, command, made, port, state, before=(), enter=None, peers=1100, slots=64, **more):
        os.makedirs(state, exist_ok=True)
        words = [*before, *command(port, made, state, peers, slots, **more)]
        environment = dict(os.environ, HOME=state, TERM="xterm")
        log = open(f"{state}/log", "ab")
        # ctorrent ends with its standard input, so that is held open.
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=state, env=environment, preexec_fn=enter
        )
        self.name, self.port, self.made, self.state, self.launched = name, port, made, state, bool(before)

    @property
    def pid(self):
        return self.process.pid

    def wait(self, tracker, count, patience=300):
        """Until it has announced so many torrents as whole: seconds that took, or none."""
        start = time.time()
        while time.time() - start < patience:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended: {self.process.returncode}; see its log in the work folder")
            if ask(tracker, "seeds", self.port) >= count:
                return time.time() - start
            time.sleep(0.1)
        raise RuntimeError(f"{self.name}: {ask(tracker, 'seeds', self.port)} of {count} after {patience} s")

    def says(self, method, **params):
        """What meshseed answers on its control socket; none while it does not."""
        with socket.socket(socket.AF_UNIX) as control, contextlib.suppress(OSError, ValueError, KeyError):
            control.settimeout(5)
            control.connect(self.state + "/control.sock")
            control.sendall(json.dumps({"method": method, "params": params}).encode() + b"\n")
            return json.loads(control.makefile().readline())["result"]

    def until(self, done, patience):
        """Seconds until something is so."""
        start = time.monotonic()
        while not done():
            if self.process.poll() is not None or time.monotonic() - start > patience:
                raise RuntimeError(f"{self.name} did not come to it in {patience} s; see its log in the work folder")
            time.sleep(0.02)
        return time.monotonic() - start

    def stop(self):
        others = measure.family(self.pid)[1:]
        # A tracer in front keeps the signal to itself.
        os.kill(others[0] if self.launched and others else self.pid, signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def ask(tracker, what, port, more=""):
    with urllib.request.urlopen(f"http://{ADDRESS}:{tracker}/{what}?port={port}{more}", timeout=20) as reply:
        return int(reply.read())
