"""What the kernel says of a process and its children: memory, processor time, context switches, bytes read."""

import glob
import os
import re
import subprocess
import time

TICK = os.sysconf("SC_CLK_TCK")


def family(pid):
    """The process and what it started."""
    found = [pid]
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        for child in read(path).split():
            found += family(int(child))
    return found


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def memory(pid):
    """KiB: resident, private dirty, and the peak since `forget_peak`."""
    total = {"Rss": 0, "Private_Dirty": 0, "VmHWM": 0}
    for process in family(pid):
        # Pages of a program that was built a moment ago are dirty until it is on disk; they are none of its memory.
        with open(f"/proc/{process}/exe") as program:
            os.fsync(program.fileno())
        text = read(f"/proc/{process}/smaps_rollup") + read(f"/proc/{process}/status")
        for key in total:
            match = re.search(rf"^{key}:\s+(\d+) kB", text, re.M)
            total[key] += int(match[1]) if match else 0
    return total["Rss"], total["Private_Dirty"], total["VmHWM"]


def anonymous(pid):
    """KiB of memory that is resident and no file's."""
    found = [re.search(r"^RssAnon:\s+(\d+) kB", read(f"/proc/{process}/status"), re.M) for process in family(pid)]
    return sum(int(match[1]) for match in found if match)


def forget_peak(pid):
    for process in family(pid):
        with open(f"/proc/{process}/clear_refs", "w") as file:
            file.write("5")


def cpu(pid):
    """Seconds of processor time, of the user's and the kernel's."""
    seconds = 0
    for process in family(pid):
        fields = read(f"/proc/{process}/stat").rpartition(")")[2].split()
        seconds += (int(fields[11]) + int(fields[12])) / TICK if fields else 0
    return seconds


def bytes_read(pid):
    """(asked of files, fetched from the disk) in bytes.

    The first is `rchar`: what read-like calls returned, from the page cache or not. What comes by recv from sockets is not in
    it; a few bytes from timers and the like are. It counts a byte again that is read again.
    """
    text = read(f"/proc/{pid}/io")
    return [int(re.search(rf"^{key}: (\d+)", text, re.M)[1]) for key in ("rchar", "read_bytes")]


def switches(pids, seconds):
    """Context switches a second of each process over that time, threads that come and go included; in one window."""
    counters = []
    for pid in pids:
        processes = ",".join(map(str, family(pid)))
        command = ["perf", "stat", "-x,", "-e", "context-switches", "-p", processes, "sleep", str(seconds)]
        counters.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    rates = []
    for counter in counters:
        lines = [line for line in counter.communicate()[1].splitlines() if "context-switches" in line]
        rates.append(int(lines[0].split(",")[0]) / seconds)
    return rates


class Cgroup:
    """A memory cgroup, of either version, that a program can be started in."""

    def __init__(self, limit):
        self.second = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
        root = "/sys/fs/cgroup" if self.second else "/sys/fs/cgroup/memory"
        if self.second:
            self.write(root + "/cgroup.subtree_control", "+memory")
        self.path = f"{root}/meshseed-bench-{os.getpid()}"
        os.makedirs(self.path, exist_ok=True)
        self.write(self.path + ("/memory.max" if self.second else "/memory.limit_in_bytes"), limit)

    def write(self, path, value):
        with open(path, "w") as file:
            file.write(str(value))

    def enter(self):
        """For the child between fork and exec."""
        self.write(self.path + "/cgroup.procs", os.getpid())

    def kills(self):
        text = read(self.path + ("/memory.events" if self.second else "/memory.oom_control"))
        return int(re.search(r"^oom_kill (\d+)", text, re.M)[1])

    def remove(self):
        for _ in range(50):
            try:
                return os.rmdir(self.path)
            except OSError:
                time.sleep(0.1)


def out_of_cache(path):
    """The file's pages leave the page cache, so that whoever reads next pays for them."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
