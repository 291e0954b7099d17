#!/usr/bin/env python3
"""Compares what a request costs in Crossgate and in the servers that people would otherwise use.

For every workload and engine, interleaved over several rounds: start the engine on one CPU, load it from the other, and take the
operating system's account of its process's time. The medians and ratios go to benches/results/. Ratios of one run are what
is claimed; absolute times are this machine's.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import engines
from engines import Setup

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RESULTS = ROOT / "benches" / "results"
TICK = os.sysconf("SC_CLK_TCK")
SERVER_CPU, LOAD_CPU = "0", "1"
CONNECTIONS = 64

ORIGINS = [1, 1_000, 10_000]
WORKLOADS = (
    [("preflight", Setup(kind, count)) for kind in ("exact", "wildcard") for count in ORIGINS]
    + [("preflight", Setup("exact", 1, 10_000))]
    + [(kind, Setup()) for kind in ("denied", "get", "64k", "post")]
    + [("get", Setup("exact", 1, 10_000))]
)
TITLES = {
    "preflight": "preflight, allowed",
    "denied": "preflight, denied",
    "get": "GET, proxied",
    "64k": "GET of 64 KiB, proxied",
    "post": "POST of 1 KiB, proxied",
}
# What each figure of ours is held against: another engine's on the same workload.
AIMS = [
    ("preflight", "nginx", 0.95), ("preflight", "haproxy", 0.85), ("preflight", "envoy", 0.45),
    ("get", "bare pingora", 1.05), ("get", "envoy", 0.60),
]


def main():
    arguments = parse()
    free = socket_pair()
    work = pathlib.Path(tempfile.mkdtemp(prefix="peers-"))
    upstream = engines.Upstream(work / "upstream", free[0], "")
    everyone = [make(work / make.name.replace(" ", "-"), free[1], f"127.0.0.1:{free[0]}") for make in chosen(arguments)]
    workloads = [w for w in WORKLOADS if not arguments.only or w[0] in arguments.only]
    measured = {}
    with running(upstream, Setup(), LOAD_CPU):
        for round_number in range(arguments.rounds):
            for kind, setup in workloads:
                for engine in everyone:
                    if isinstance(engine, engines.Pingora) and kind in ("preflight", "denied"):
                        continue
                    result = measure(engine, kind, setup, arguments.seconds)
                    measured.setdefault((kind, setup.title(), engine.name), []).append(result)
                    print(f"{round_number + 1} {TITLES[kind]:24} {setup.title():26} {engine.name:13} "
                          f"{result['cpu_us']:9.2f} us a request, {result['rate']:9.0f} a second", flush=True)
        latencies = [] if arguments.only else [measure_latency(engine) for engine in everyone if engine.name != "bare pingora"]
    report(arguments, everyone, workloads, measured, latencies)
    shutil.rmtree(work)


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crossgate", required=True, help="the built gateway")
    parser.add_argument("--pingora", required=True, help="the built bare Pingora proxy")
    parser.add_argument("--envoy", help="Envoy's binary")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of load for each figure")
    parser.add_argument("--only", action="append", choices=list(TITLES), help="these workloads alone; writes no results")
    parser.add_argument("--engines", help="these engines alone, by name and with commas")
    return parser.parse_args()


def chosen(arguments):
    engines.Crossgate.binary, engines.Pingora.binary = arguments.crossgate, arguments.pingora
    engines.Envoy.binary = arguments.envoy
    everyone = [engines.Crossgate, engines.Pingora, engines.Nginx, engines.Haproxy]
    everyone += [engines.Envoy] if arguments.envoy else []
    wanted = arguments.engines.split(",") if arguments.engines else [engine.name for engine in everyone]
    return [engine for engine in everyone if engine.name in wanted]


def socket_pair():
    """Two ports that are free now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [held.getsockname()[1] for held in sockets]
    for held in sockets:
        held.close()
    return ports


class running:
    """An engine on one CPU, for as long as the block lasts."""

    def __init__(self, engine, setup, cpu):
        self.engine, self.setup, self.cpu = engine, setup, cpu

    def __enter__(self):
        log = open(self.engine.directory / "log", "w")
        command = ["taskset", "-c", self.cpu, *self.engine.command(self.setup)]
        self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        until = time.monotonic() + 60
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > until:
                self.__exit__()
                sys.exit(f"{self.engine.name} does not start: {(self.engine.directory / 'log').read_text()[-2000:]}")
            time.sleep(0.05)
        return self.process.pid

    def answers(self):
        try:
            socket.create_connection(("127.0.0.1", self.engine.port), timeout=1).close()
            return True
        except OSError:
            return False

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


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
    return user / TICK, system / TICK


def wrk(engine, kind, setup, seconds):
    arguments = [kind, setup.kind, str(setup.origins), str(setup.tenants)]
    command = ["taskset", "-c", LOAD_CPU, "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(HERE / "load.lua"),
               f"http://127.0.0.1:{engine.port}", "--", *arguments]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    requests, took_us, broken, refused = map(int, re.search(r"RESULT (\d+) (\d+) (\d+) (\d+)", text).groups())
    return requests, took_us / 1e6, broken, refused


def measure(engine, kind, setup, seconds):
    with running(engine, setup, SERVER_CPU) as pid:
        check(engine, kind, setup)
        wrk(engine, kind, setup, 1)
        pids = family(pid)
        before = cpu_seconds(pids)
        requests, took, broken, refused = wrk(engine, kind, setup, seconds)
        after = cpu_seconds(pids)
    if broken or (refused and kind != "denied"):
        sys.exit(f"{engine.name}: {broken} broken and {refused} refused requests in {kind}")
    user, system = (1e6 * (one - other) / requests for one, other in zip(after, before))
    return {"cpu_us": user + system, "user_us": user, "system_us": system, "rate": requests / took}


def check(engine, kind, setup):
    """One request of the kind, so that nothing is measured that is not what it says."""
    if isinstance(engine, engines.Pingora):
        return
    name = setup.names()[-1]
    origin = {"denied": "https://stranger.example"}.get(kind, f"https://{'r.' if setup.kind == 'wildcard' else ''}{name}")
    head = f"Host: {setup.hosts()[-1]}\r\nOrigin: {origin}\r\nConnection: close\r\n"
    if kind in ("preflight", "denied"):
        head = f"OPTIONS / HTTP/1.1\r\n{head}Access-Control-Request-Method: PUT\r\n\r\n"
    else:
        head = f"GET /{'64k' if kind == '64k' else ''} HTTP/1.1\r\n{head}\r\n"
    with socket.create_connection(("127.0.0.1", engine.port)) as client:
        client.sendall(head.encode())
        answer = b"".join(iter(lambda: client.recv(65536), b"")).decode()
    allowed = f"access-control-allow-origin: {origin}".lower() in answer.lower()
    if allowed != (kind != "denied"):
        sys.exit(f"{engine.name} answers a {kind} of {setup.title()} with {answer[:500]}")


def measure_latency(engine):
    """Latency at a fixed rate that every engine can hold, of preflights with one exact origin."""
    rate, seconds, clients = 4_000, 10, 40
    with running(engine, Setup(), SERVER_CPU), tempfile.NamedTemporaryFile() as log:
        command = ["taskset", "-c", LOAD_CPU, "h2load", "--h1", "-t1", f"-c{clients}", f"--rps={rate / clients}", f"-D{seconds}",
                   "--warm-up-time=2", f"--log-file={log.name}",
                   "-H:method: OPTIONS", "-HHost: api0.test", "-HOrigin: https://o0.example",
                   "-HAccess-Control-Request-Method: PUT", f"http://127.0.0.1:{engine.port}/orders"]
        subprocess.run(command, capture_output=True, check=True)
        rows = [line.split("\t") for line in pathlib.Path(log.name).read_text().splitlines()]
    times = sorted(int(row[2]) for row in rows if row[1] == "204")
    at = lambda share: times[min(len(times) - 1, int(len(times) * share))]
    return {"engine": engine.name, "rate": rate, "answers": len(times), "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999)}


def report(arguments, everyone, workloads, measured, latencies):
    medians = {key: {name: statistics.median(one[name] for one in results) for name in results[0]}
               for key, results in measured.items()}
    ratios = {}
    for (kind, title, name), results in measured.items():
        ours = measured[(kind, title, "crossgate")] if (kind, title, "crossgate") in measured else []
        pairs = [mine["cpu_us"] / other["cpu_us"] for mine, other in zip(ours, results)]
        ratios[(kind, title, name)] = statistics.median(pairs) if pairs else float("nan")
    text = table(arguments, everyone, workloads, medians, ratios, latencies)
    print(text)
    if arguments.only or arguments.engines:
        return
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "peers.md").write_text(text)
    rows = [{"workload": kind, "setup": title, "engine": name, "rounds": results} for (kind, title, name), results in measured.items()]
    (RESULTS / "peers.json").write_text(json.dumps({"rounds": rows, "latency": latencies}, indent=1) + "\n")
    import plots
    plots.draw(RESULTS, workloads, medians, [engine.name for engine in everyone], TITLES)


def machine():
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return f"{model.group(1) if model else platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release()}"


def table(arguments, everyone, workloads, medians, ratios, latencies):
    names = [engine.name for engine in everyone]
    lines = ["# Side by side", "",
             f"CPU time of the server process per request in microseconds (user + system), medians of {arguments.rounds} rounds of "
             f"{arguments.seconds} s each, and in brackets Crossgate's as a share of it, the median of the rounds' ratios. One CPU "
             f"for the server, the other for `wrk` with {CONNECTIONS} connections and for the upstream; no access logs. Origins and "
             "hosts are drawn anew for every request; under wildcards each has a fresh subdomain. Written by `make bench-peers`.", "",
             f"- machine: {machine()}", *(f"- {engine.version()}" for engine in everyone), "",
             "| workload | origins | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names)]
    for kind, setup in workloads:
        cells = [cell(medians.get((kind, setup.title(), name)), ratios.get((kind, setup.title(), name)), name) for name in names]
        lines.append(f"| {TITLES[kind]} | {setup.title()} | " + " | ".join(cells) + " |")
    lines += ["", "Requests per second on that one CPU:", "", "| workload | origins | " + " | ".join(names) + " |",
              "|---|---|" + "---|" * len(names)]
    for kind, setup in workloads:
        cells = [f"{medians[key]['rate']:,.0f}" if (key := (kind, setup.title(), name)) in medians else "" for name in names]
        lines.append(f"| {TITLES[kind]} | {setup.title()} | " + " | ".join(cells) + " |")
    if latencies:
        lines += ["", f"Latency of allowed preflights at {latencies[0]['rate']:,} a second, in microseconds (`h2load`):", "",
                  "| engine | 50 % | 99 % | 99.9 % |", "|---|---|---|---|"]
        lines += [f"| {one['engine']} | {one['p50_us']} | {one['p99_us']} | {one['p999_us']} |" for one in latencies]
    lines += ["", "| aim: CPU per request | at most | measured |", "|---|---|---|"]
    for kind, name, most in AIMS:
        ratio = ratios.get((kind, Setup().title(), name))
        if ratio is not None:
            lines.append(f"| {TITLES[kind]}, against {name} | {most:.2f} | {ratio:.2f} {'met' if ratio <= most else 'missed'} |")
    for kind, setup in (("preflight", Setup("wildcard", 10_000)), ("preflight", Setup("exact", 1, 10_000))):
        key, one = (kind, setup.title(), "crossgate"), (kind, Setup(setup.kind).title(), "crossgate")
        if key in medians and one in medians:
            ratio = medians[key]["cpu_us"] / medians[one]["cpu_us"]
            lines.append(f"| our own, {setup.title()} against one | 1.10 | {ratio:.2f} {'met' if ratio <= 1.1 else 'missed'} |")
    return "\n".join(lines) + "\n"


def cell(median, ratio, name):
    if median is None:
        return ""
    text = f"{median['cpu_us']:.1f} ({median['user_us']:.1f} + {median['system_us']:.1f})"
    return text if name == "crossgate" else f"{text} [{ratio:.2f}]"


if __name__ == "__main__":
    main()
