"""Servers as child processes: started on chosen CPUs, waited for, accounted, and ended whatever happens.

Every server leads a process group of its own, so that its workers end with it; only groups that were started here are ever killed.
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
# Below the ports that the system gives to clients: a server must not find its port taken by the end of some connection.
PORTS = range(20_000, 32_000)
PORTS_GIVEN = set()
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)
# Tells readers of results whether the machine had anything else to do.
LOAD_AVERAGE_AT_START = os.getloadavg()[0]


def end_on_signals():
    """Signals that ask for an end become exceptions, so that every block that runs a server ends it."""
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
    sys.exit("no free port found")


def cpus():
    """Which CPUs are for the server, for the load, and for the upstream. The last two share one where there are but two."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        sys.exit("two CPUs are needed: one for the server, one for the load")
    return usable[0], usable[1], usable[2] if len(usable) > 2 else usable[1]


class Running:
    """A server, for as long as the block lasts. The block gets its process id."""

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
        """In the child: it dies with its parent, stays on its CPU, and may open as many files as the system lets it."""
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if self.cpu is not None:
            os.sched_setaffinity(0, {self.cpu})
        raise_file_limit()

    def wait(self):
        while not listens(self.port):
            if self.process.poll() is not None or time.monotonic() > self.started + START_SECONDS_MAX:
                sys.exit(f"{self.name} does not start: {pathlib.Path(self.log).read_text(errors='replace')[-2000:]}")
            time.sleep(0.002)

    def __exit__(self, *_):
        if self.process is None:
            return
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


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
    """A process and its children."""
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid] + [one for child in children for one in family(int(child))]


def cpu_seconds(pids):
    """User and system time so far."""
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
