"""Servers as child processes: start on given CPUs, wait until they listen, measure CPU time, and always end.

Every server leads its own process group, so that its workers end with it. Only groups that this module started are killed.
"""

import ctypes
import os
import pathlib
import platform
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import time

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
START_SECONDS_MAX = 120
# The time for strace to attach to all threads.
ATTACH_SECONDS = 0.5
# Below the ephemeral ports: a client's connection must not occupy the port of a server.
PORTS = range(20_000, 32_000)
PORTS_GIVEN = set()
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)
# Results contain it, because other load disturbs measurements.
LOAD_AVERAGE_AT_START = os.getloadavg()[0]


def end_on_signals():
    """Turns termination signals into exceptions, so that every block that runs a server ends it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def free_port():
    for port in random.sample(PORTS, 100):
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        if port not in PORTS_GIVEN:
            PORTS_GIVEN.add(port)
            return port
    sys.exit(f"no free port: all of 100 random ports from {PORTS.start} to {PORTS.stop - 1} are in use")


def cpus():
    """The CPUs of the server, the load and the upstream. With two CPUs, the last two share one."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        sys.exit("too few CPUs: expected two, one for the server and one for the load")
    return usable[0], usable[1], usable[2] if len(usable) > 2 else usable[1]


class Running:
    """A server that runs for the duration of the block. The block gets its process id."""

    def __init__(self, name, command, port, log, cpu=None):
        self.name, self.command, self.port, self.log, self.cpu = name, command, port, log, cpu
        self.process = None

    def __enter__(self):
        try:
            self.start()
            self.wait()
        except BaseException:
            self.__exit__()
            raise
        return self.process.pid

    def start(self):
        self.started = time.monotonic()
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                                            preexec_fn=self.prepare)

    def prepare(self):
        """In the child: it ends with its parent, stays on its CPU, and may open as many files as the system allows."""
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if self.cpu is not None:
            os.sched_setaffinity(0, {self.cpu})
        raise_file_limit()

    def wait(self):
        while not listens(self.port):
            if self.process.poll() is not None or time.monotonic() > self.started + START_SECONDS_MAX:
                sys.exit(f"{self.name} did not start: {pathlib.Path(self.log).read_text(errors='replace')[-2000:]}")
            time.sleep(0.002)

    def __exit__(self, *_):
        if self.process is None:
            return
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


class Traced:
    """Counts the system calls of processes for the duration of the block; then `counts` has them by name."""

    def __init__(self, pids, path):
        self.pids, self.path, self.counts = pids, path, {}

    def __enter__(self):
        attach = [word for pid in self.pids for word in ("-p", str(pid))]
        self.process = subprocess.Popen(["strace", "-f", "-c", "-U", "name,calls", "-o", str(self.path), *attach],
                                        stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(ATTACH_SECONDS)
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        self.process.wait()
        rows = [line.split() for line in pathlib.Path(self.path).read_text().splitlines()]
        self.counts = {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit() and row[0] != "total"}


def raise_file_limit():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


def family(pid):
    """The ids of a process and its descendants."""
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid] + [one for child in children for one in family(int(child))]


def cpu_seconds(pids):
    """The user and system time so far."""
    user = system = 0
    for pid in pids:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        user, system = user + int(fields[11]), system + int(fields[12])
    return user / TICKS_PER_SECOND, system / TICKS_PER_SECOND


def first_line(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().splitlines()[0]


def machine():
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    memory_kib = int(re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text()).group(1))
    return (f"{model.group(1) if model else platform.machine()}, {os.cpu_count()} CPUs, {memory_kib / 2**20:.0f} GiB, "
            f"Linux {platform.release()}, load average {LOAD_AVERAGE_AT_START:.2f} at the start")
