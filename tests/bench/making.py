"""The row of making torrents: processor time, time by the clock and memory, beside other makers and the hash alone."""

import os
import shutil
import statistics
import subprocess
import time

import measure
import torrents

PIECE = 1 << 18


def making(bench):
    """Makes the torrent of a file of 1 GiB in the page cache: processor time next to `openssl dgst -sha1`, time by the clock
    next to mktorrent with one thread, peak memory."""
    made = bench.disk("big", torrents.big, 1024)
    out = f"{bench.memory}/making.torrent"  # The disk has its say in other rows.
    jobs = min(2, os.cpu_count())
    ours = {name: [binary, "create", "-q", "--force", "--piece-size", str(PIECE), "-o", out, made.path, "--jobs"]
            for name, binary in bench.binaries.items()}
    others = {
        "mktorrent": ["mktorrent", "-t", "1", "-l", "18", "-a", "http://tracker/", "-o", out, made.path],
        "transmission": ["transmission-create", "-s", "256", "-o", out, made.path],
    }
    programs = {"mktorrent": "mktorrent", "transmission": "transmission-create"}
    others = {name: words for name, words in others.items() if shutil.which(programs[name])}
    hashing = [["openssl", "dgst", digest, made.path] for digest in ("-sha1", "-sha256")]
    processor, clock, memory, hybrid = ({} for _ in range(4))

    def take(figures, name, value):
        figures.setdefault(name, []).append(value)

    run(hashing[0])  # Warm from here on.
    for _ in range(bench.options.repeat):
        least, also = (run(words)[0] for words in hashing)
        one = run(others["mktorrent"], out)[1] if "mktorrent" in others else None
        for name, words in ours.items():
            used, _, peak = run([*words, "1"])
            take(processor, name, used / least)
            take(memory, name, peak / 1024)
            if one:
                take(clock, name, run([*words, str(jobs)])[1] / one)
            take(hybrid, name, run([*words, "1", "--format", "hybrid"])[0] / (least + also))
        for name, words in others.items():
            used, _, peak = run(words, out)
            take(processor, name, used / least)
            take(memory, name, peak / 1024)
    for what, most, unit, figures in (
        ("processor time to make a torrent of 1 GiB, one job", 1.05, "x openssl dgst -sha1", processor),
        (f"time to make it with {jobs} jobs", 0.6, "x mktorrent -t 1", clock),
        ("processor time of a hybrid, one job", 1.05, "x openssl dgst -sha1 and -sha256", hybrid),
        ("peak resident, making a torrent of 1 GiB", 8, "MiB", memory),
    ):
        medians = {name: statistics.median(values) for name, values in figures.items()}
        bench.says("making", what, most, unit, medians)


def run(words, out=None):
    """Seconds of processor time and by the clock, and the peak in KiB, of a command; what it would not overwrite goes first."""
    if out and os.path.exists(out):
        os.remove(out)
    start = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    peak = 0
    while True:
        # The kernel's own maximum would count what the interpreter had before it became that command.
        if same_program(process.pid, words[0]):
            peak = max(peak, high_water(process.pid))
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            break
        time.sleep(0.02)
    if process.returncode:
        raise RuntimeError(f"{words[0]} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime, time.monotonic() - start, peak


def same_program(pid, program):
    try:
        return os.path.samefile(f"/proc/{pid}/exe", shutil.which(program))
    except OSError:
        return False


def high_water(pid):
    lines = measure.read(f"/proc/{pid}/status").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


ROWS = {"making": making}
