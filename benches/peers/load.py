"""The load: `wrk` at full speed, for the cost of a request, and `h2load` at a fixed rate, for latencies."""

import pathlib
import re
import subprocess
import tempfile
import time

from engines import HEADERS

SCRIPT = pathlib.Path(__file__).resolve().parent / "load.lua"
CONNECTIONS = 64
# The connections of the fixed rate. All of them send at the same moments, each its share of the rate.
STEADY_CONNECTIONS = 40
# The share of nginx's highest rate that is the fixed rate, and the rate if nginx is not measured.
STEADY_SHARE = 0.6
STEADY_RATE = 4_000
# HTTP/2: requests in flight on each of these connections.
HTTP2_CONNECTIONS, HTTP2_STREAMS = 16, 8
IN_FLIGHT_MAX = max(CONNECTIONS, HTTP2_CONNECTIONS * HTTP2_STREAMS)
# New connections at a time.
BURST = 200
STEADY_WARM_UP_SECONDS = 1
# Extra time for the start and end of a load. h2load never ends if the server closes every connection.
SLACK_SECONDS = 20


class Load:
    def __init__(self, requests, seconds, broken, refused):
        self.requests, self.seconds, self.broken, self.refused = requests, seconds, broken, refused


def on_cpu(cpu, command, seconds):
    done = subprocess.run(["taskset", "-c", str(cpu), *command], capture_output=True, text=True, check=False,
                          timeout=seconds + SLACK_SECONDS)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed: {done.stdout}{done.stderr}")
    return done.stdout


def full(port, kind, setup, seconds, cpu, salt):
    """Sends requests at full speed. Calls with different salts send different fresh subdomains."""
    if kind == "handshake":
        return new_connections(port, seconds, cpu)
    if setup.transport == "h2":
        return full_http2(port, kind, seconds, cpu)
    scheme = "https" if setup.is_tls() else "http"
    arguments = [kind, setup.kind, str(setup.origins), str(setup.tenants), str(salt)]
    text = on_cpu(cpu, ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(SCRIPT), f"{scheme}://127.0.0.1:{port}", "--",
                        *arguments], seconds)
    requests, took_us, broken, refused = map(int, re.search(r"RESULT (\d+) (\d+) (\d+) (\d+)", text).groups())
    return Load(requests, took_us / 1e6, broken, refused)


def full_http2(port, kind, seconds, cpu):
    """Sends requests over HTTP/2 at full speed, all with one host and one exact origin."""
    text = on_cpu(cpu, ["h2load", "-t1", f"-c{HTTP2_CONNECTIONS}", f"-m{HTTP2_STREAMS}", f"-D{seconds}", "--warm-up-time=0", *fields(kind),
                        f"https://127.0.0.1:{port}/orders"], seconds)
    return http2_load(text, seconds)


def new_connections(port, seconds, cpu):
    """Makes new TLS connections with one preflight over HTTP/2 each, in bursts."""
    total, until = Load(0, 0.0, 0, 0), time.monotonic() + seconds
    while time.monotonic() < until:
        begun = time.monotonic()
        text = on_cpu(cpu, ["h2load", "-t1", f"-c{BURST}", f"-n{BURST}", "-m1", *fields("preflight"), f"https://127.0.0.1:{port}/orders"], 30)
        burst = http2_load(text, time.monotonic() - begun)
        total = Load(total.requests + burst.requests, total.seconds + burst.seconds, total.broken + burst.broken, total.refused + burst.refused)
    return total


def fields(kind):
    preflight = ["-H:method: OPTIONS", "-HAccess-Control-Request-Method: PUT", f"-HAccess-Control-Request-Headers: {HEADERS}"]
    # `-HHost:` would add a second Host to that of h2load, which servers refuse.
    return ["-H:authority: api0.test", "-HOrigin: https://o0.example", *(preflight if kind == "preflight" else [])]


def http2_load(text, seconds):
    done, failed = map(int, re.search(r"(\d+) done, \d+ succeeded, (\d+) failed", text).groups())
    refused = sum(map(int, re.search(r"(\d+) 4xx, (\d+) 5xx", text).groups()))
    return Load(done, seconds, failed - refused if failed >= refused else failed, refused)


def steady(port, kind, rate, seconds, cpu):
    """The sorted latencies in microseconds at a fixed rate, with one host and one exact origin, without warm-up."""
    with tempfile.NamedTemporaryFile() as log:
        on_cpu(cpu, ["h2load", "--h1", "-t1", f"-c{STEADY_CONNECTIONS}", f"--rps={rate / STEADY_CONNECTIONS:g}",
                     f"-D{seconds}", f"--warm-up-time={STEADY_WARM_UP_SECONDS}", f"--log-file={log.name}",
                     *fields(kind), f"http://127.0.0.1:{port}/orders"], seconds)
        rows = [line.split("\t") for line in pathlib.Path(log.name).read_text().splitlines()]
    good = sorted(int(row[2]) for row in rows if row[1] in ("200", "204"))
    if not good or len(good) < len(rows):
        raise SystemExit(f"{kind}: {len(good)} of {len(rows)} answers at the fixed rate have status 200 or 204, expected all")
    return good
