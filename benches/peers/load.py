"""The load: `wrk` as fast as it goes, for the cost of a request, and `h2load` at a fixed rate, for latencies."""

import pathlib
import re
import subprocess
import tempfile

from engines import HEADERS

SCRIPT = pathlib.Path(__file__).resolve().parent / "load.lua"
CONNECTIONS = 64
# Of the fixed rate: all connections send at the same moments, each at its own share of it.
STEADY_CONNECTIONS = 40
STEADY_RATE = 4_000
STEADY_WARM_UP_SECONDS = 1
# More than a load may take to begin and end. h2load goes on for ever before a server that closes every connection.
SLACK_SECONDS = 20


class Load:
    def __init__(self, requests, seconds, broken, refused):
        self.requests, self.seconds, self.broken, self.refused = requests, seconds, broken, refused


def on_cpu(cpu, command, seconds):
    done = subprocess.run(["taskset", "-c", str(cpu), *command], capture_output=True, text=True, check=False,
                          timeout=seconds + SLACK_SECONDS)
    if done.returncode:
        raise SystemExit(f"{command[0]} fails: {done.stdout}{done.stderr}")
    return done.stdout


def full(port, kind, setup, seconds, cpu, salt):
    """As many requests as the server and this CPU can do. No two calls with different salts send the same fresh subdomain."""
    arguments = [kind, setup.kind, str(setup.origins), str(setup.tenants), str(salt)]
    text = on_cpu(cpu, ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(SCRIPT), f"http://127.0.0.1:{port}", "--",
                        *arguments], seconds)
    requests, took_us, broken, refused = map(int, re.search(r"RESULT (\d+) (\d+) (\d+) (\d+)", text).groups())
    return Load(requests, took_us / 1e6, broken, refused)


def steady(port, kind, seconds, cpu):
    """Latencies in microseconds at the fixed rate, sorted, of one host and one exact origin; warm-up aside."""
    preflight = ["-H:method: OPTIONS", "-HAccess-Control-Request-Method: PUT", f"-HAccess-Control-Request-Headers: {HEADERS}"]
    with tempfile.NamedTemporaryFile() as log:
        on_cpu(cpu, ["h2load", "--h1", "-t1", f"-c{STEADY_CONNECTIONS}", f"--rps={STEADY_RATE / STEADY_CONNECTIONS:g}",
                     f"-D{seconds}", f"--warm-up-time={STEADY_WARM_UP_SECONDS}", f"--log-file={log.name}",
                     # As `-HHost:` it would come beside h2load's own, and two are refused.
                     "-H:authority: api0.test", "-HOrigin: https://o0.example",
                     *(preflight if kind == "preflight" else []), f"http://127.0.0.1:{port}/orders"], seconds)
        rows = [line.split("\t") for line in pathlib.Path(log.name).read_text().splitlines()]
    good = sorted(int(row[2]) for row in rows if row[1] in ("200", "204"))
    if not good or len(good) < len(rows):
        raise SystemExit(f"{len(good)} of {len(rows)} answers are good at a fixed rate of {kind}")
    return good
