#!/usr/bin/env python3
"""Measures the cost of size: start, memory and reloads with many tenants and origins, and the memory of idle connections.

The script generates configurations, starts the gateway and measures it from outside: time by its own clock, memory from /proc. The
results go to benches/results/. The gateway uses all CPUs, as in production.
"""

import argparse
import dataclasses
import pathlib
import re
import resource
import statistics
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
# The comparison with other servers has the process handling.
sys.path.append(str(HERE.parent / "peers"))

import processes
from processes import Running, free_port

import report
from client import Connection, Traffic, admin
from generate import Ports, Tenants, one_policy, origin

ROOT = HERE.parent.parent
TRAFFIC_RATE = 500
# The interval between two requests for the new policy.
PROBE_SECONDS = 0.001
CHANGE_SECONDS_MAX = 30
# The pause between two changes, until the gateway is idle again.
REST_SECONDS = 0.5
SETTLED_SECONDS = 0.5
SETTLE_SECONDS_MAX = 30
# The gateway keeps 384 files for itself, and this script needs some.
OWN_FILES = 500


@dataclasses.dataclass
class Scale:
    tenants: int = 100_000
    files: int = 1_000
    origins_each: int = 10
    origins: int = 1_000_000
    connections: int = 10_000
    starts: int = 3
    changes: int = 10
    reloads: int = 20


QUICK = Scale(tenants=1_000, files=10, origins=10_000, connections=500, starts=1, changes=3, reloads=3)


def main():
    arguments = parse()
    processes.end_on_signals()
    processes.raise_file_limit()
    scale = QUICK if arguments.quick else Scale()
    scale = dataclasses.replace(scale, connections=min(scale.connections, connections_max()))
    with tempfile.TemporaryDirectory(prefix="scale-") as directory:
        bench = Bench(str(arguments.crossgate), pathlib.Path(directory), scale)
        parts = {"tenants": bench.many_tenants, "origins": bench.many_origins, "connections": bench.idle_connections}
        measured = {name: part() for name, part in parts.items() if not arguments.only or name in arguments.only}
    version = processes.first_line(str(arguments.crossgate), "--version")
    results = report.Results(scale, measured, version, arguments.quick)
    print(results.markdown())
    if (arguments.quick or arguments.only) and not arguments.results:
        print("no results written, because the run was partial: name a directory with --results")
        return
    results.write(pathlib.Path(arguments.results or ROOT / "benches" / "results"))


def connections_max():
    """The most client connections that the gateway accepts with the hard limit of open files: about half of it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return sys.maxsize if hard == resource.RLIM_INFINITY else (hard - OWN_FILES) // 2


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crossgate", default=ROOT / "target" / "release" / "crossgate", help="the built gateway")
    parser.add_argument("--quick", action="store_true", help="a trial with small numbers")
    parser.add_argument("--only", action="append", choices=["tenants", "origins", "connections"], help="run only this part; may be repeated")
    parser.add_argument("--results", help="the directory of the results")
    return parser.parse_args()


class Bench:
    def __init__(self, binary, directory, scale):
        self.binary, self.directory, self.scale = binary, directory, scale
        self.ports = Ports(free_port(), free_port(), free_port())

    def gateway(self, main):
        return Running("crossgate", [self.binary, "run", "--config", str(main)], self.ports.data, self.directory / "log")

    def start(self, main, host, requested):
        """Starts the gateway, waits for the first answer, and ends it. Returns the times of the start and the memory after it."""
        gateway = self.gateway(main)
        with gateway as pid:
            expect("the first answer", Connection(self.ports.data).preflight(host, requested), 204)
            seconds = time.monotonic() - gateway.started
            return {"seconds": seconds, "cpu_seconds": cpu_seconds(pid), **memory_mib(pid)}

    def starts(self, main, host, requested):
        runs = [self.start(main, host, requested) for _ in range(self.scale.starts)]
        result = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        print_progress(f"start {result['seconds']:.2f} s, {result['rss_mib']:.0f} MiB resident, {result['peak_mib']:.0f} MiB at the peak")
        return {"start": result, "starts": runs}

    def many_tenants(self):
        scale = self.scale
        tenants = Tenants(self.directory / "tenants", self.ports, scale.tenants, scale.files, scale.origins_each)
        print_progress(f"writing {scale.tenants:,} tenants")
        main = tenants.write()
        last = scale.tenants - 1
        result = self.starts(main, tenants.host(last), tenants.origins(last)[-1])
        with self.gateway(main) as pid:
            # Origins that no change affects.
            cases = [(tenants.host(number), tenants.origins(number)[-1]) for number in range(0, scale.tenants, scale.tenants // 100 or 1)]
            with Traffic(self.ports.data, TRAFFIC_RATE, cases) as traffic:
                changes = [self.change(tenants, number) for number in range(scale.changes)]
            result["changes_ms"], result["traffic"] = changes, {"rate": TRAFFIC_RATE, **traffic.result}
            print_progress(f"a change takes {statistics.median(changes):.0f} ms, {max(changes):.0f} at worst; traffic: {traffic.result}")
            result["reloads"] = self.reloads(tenants, pid)
        return result

    def change(self, tenants, number):
        """Replaces one file. Returns the milliseconds until an open connection gets the new answer."""
        tenant, new = self.changed(number), f"https://new{number}.example"
        host, old = tenants.host(tenant), tenants.origins(tenant)[0]
        probe = Connection(self.ports.data)
        expect("before the change", (probe.preflight(host, old), probe.preflight(host, new)), (204, 403))
        tenants.replace_first_origin(tenant, new)
        begun = time.monotonic()
        while probe.preflight(host, new) != 204:
            if time.monotonic() > begun + CHANGE_SECONDS_MAX:
                sys.exit(f"a change is not live within {CHANGE_SECONDS_MAX} s")
            time.sleep(PROBE_SECONDS)
        took_ms = 1e3 * (time.monotonic() - begun)
        expect("after the change", probe.preflight(host, old), 403)
        probe.close()
        time.sleep(REST_SECONDS)
        return took_ms

    def changed(self, number):
        """The tenant of a change. Each change has another file, as long as there are enough."""
        return (number * (self.scale.tenants // self.scale.files) + 7) % self.scale.tenants

    def reloads(self, tenants, pid):
        """Reloads after changes of one file: the time of each `POST /reload`, the memory after them, and its peak during them."""
        before, cpu_before = memory_mib(pid), cpu_seconds(pid)
        reset_peak(pid)
        times_ms = []
        for number in range(self.scale.reloads):
            tenants.replace_first_origin(self.changed(number), f"https://again{number}.example")
            begun = time.monotonic()
            status, text = admin(self.ports.admin, "POST", "/reload")
            times_ms.append(1e3 * (time.monotonic() - begun))
            expect(f"the status of a reload with the answer {text[:200]}", status, 200)
            probe = Connection(self.ports.data)
            expect("after the reload", probe.preflight(tenants.host(self.changed(number)), f"https://again{number}.example"), 204)
            probe.close()
        after, cpu_ms_each = memory_mib(pid), 1e3 * (cpu_seconds(pid) - cpu_before) / len(times_ms)
        print_progress(f"a reload takes {statistics.median(times_ms):.0f} ms, {max(times_ms):.0f} at worst; {after['rss_mib']:.0f} MiB after "
             f"{len(times_ms)}, {after['peak_mib']:.0f} at the peak")
        return {"times_ms": times_ms, "cpu_ms_each": cpu_ms_each, "rss_before_mib": before["rss_mib"], **after}

    def many_origins(self):
        print_progress(f"writing {self.scale.origins:,} origins")
        main = one_policy(self.directory / "origins", self.ports, self.scale.origins)
        return self.starts(main, "api.test", origin(self.scale.origins - 1))

    def idle_connections(self):
        main = one_policy(self.directory / "connections", self.ports, 1)
        upstream = Running("demo upstream", [self.binary, "demo-upstream", "--listen", f"127.0.0.1:{self.ports.upstream}", "--pages",
                                             f"127.0.0.1:{free_port()}"], self.ports.upstream, self.directory / "upstream.log")
        with upstream:
            return {name: self.idle(main, kind) for name, kind in (("silent", None), ("preflight", "preflight"), ("get", "get"))}

    def idle(self, main, kind):
        """The resident memory per connection in bytes, after a request or without one."""
        with self.gateway(main) as pid:
            self.use(Connection(self.ports.data), "preflight")
            self.use(Connection(self.ports.data), "get")
            self.wait_for_active(0)
            before = settled_rss_kib(pid)
            connections = [Connection(self.ports.data) for _ in range(self.scale.connections)]
            if kind:
                for connection in connections:
                    self.use(connection, kind, closes=False)
            self.wait_for_active(len(connections))
            after = settled_rss_kib(pid)
            self.wait_for_active(len(connections))
            for connection in connections:
                connection.close()
            self.wait_for_active(0)
            left = settled_rss_kib(pid)
        each_bytes = (after - before) * 1024 / len(connections)
        print_progress(f"{len(connections):,} connections, {kind or 'silent'}: {each_bytes:,.0f} bytes each")
        return {"bytes_each": each_bytes, "before_kib": before, "after_kib": after, "closed_kib": left}

    def use(self, connection, kind, closes=True):
        ask = {"preflight": connection.preflight, "get": connection.get}[kind]
        expect(f"a {kind}", ask("api.test", origin(0)), 204 if kind == "preflight" else 200)
        if closes:
            connection.close()

    def wait_for_active(self, count):
        until, active = time.monotonic() + SETTLE_SECONDS_MAX, None
        while time.monotonic() < until:
            active = int(re.search(r"^crossgate_connections_active (\d+)", admin(self.ports.admin, "GET", "/metrics")[1], re.M).group(1))
            if active == count:
                return
            time.sleep(0.05)
        sys.exit(f"{active} connections are open, expected {count}")


def expect(what, got, wanted):
    if got != wanted:
        sys.exit(f"{what}: {got}, expected {wanted}")


def cpu_seconds(pid):
    """The user and system time so far."""
    return sum(processes.cpu_seconds([pid]))


def memory_kib(pid):
    """The resident memory and its peak."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return tuple(int(re.search(rf"{name}:\s+(\d+)", text).group(1)) for name in ("VmRSS", "VmHWM"))


def memory_mib(pid):
    rss_kib, peak_kib = memory_kib(pid)
    return {"rss_mib": rss_kib / 1024, "peak_mib": peak_kib / 1024}


def reset_peak(pid):
    """Resets the peak of resident memory to its current value."""
    pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")


def settled_rss_kib(pid):
    """The resident memory after it has not changed for a while."""
    until, last, since = time.monotonic() + SETTLE_SECONDS_MAX, None, 0.0
    while time.monotonic() < until:
        now = memory_kib(pid)[0]
        if now != last:
            last, since = now, time.monotonic()
        if time.monotonic() > since + SETTLED_SECONDS:
            break
        time.sleep(0.05)
    return last


def print_progress(text):
    print(text, flush=True)


if __name__ == "__main__":
    main()
