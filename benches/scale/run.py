#!/usr/bin/env python3
"""What size costs: start, memory and reloads with many tenants and origins, and the memory of idle connections.

Everything is generated, started and measured from outside: time by this process's clock, memory by the operating system's account
of the gateway's process. The results go to benches/results/. The gateway has all CPUs it finds, as it would.
"""

import argparse
import dataclasses
import pathlib
import re
import statistics
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
# The servers' process handling is that of the side-by-side runs.
sys.path.append(str(HERE.parent / "peers"))

import processes
from processes import Running, free_port

import report
from client import Connection, Traffic, admin
from generate import Ports, Tenants, one_policy, origin

ROOT = HERE.parent.parent
TRAFFIC_RATE = 500
# How often the probe asks for the new policy.
PROBE_SECONDS = 0.001
CHANGE_SECONDS_MAX = 30
# Between two changes the gateway and the traffic come to rest.
REST_SECONDS = 0.5
SETTLED_SECONDS = 0.5
SETTLE_SECONDS_MAX = 30


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
    with tempfile.TemporaryDirectory(prefix="scale-") as directory:
        bench = Bench(str(arguments.crossgate), pathlib.Path(directory), scale)
        parts = {"tenants": bench.many_tenants, "origins": bench.many_origins, "connections": bench.idle_connections}
        measured = {name: part() for name, part in parts.items() if not arguments.only or name in arguments.only}
    version = processes.first_line(str(arguments.crossgate), "--version")
    results = report.Results(scale, measured, version, arguments.quick)
    print(results.markdown())
    if (arguments.quick or arguments.only) and not arguments.results:
        print("nothing is written: this was a part of the whole; --results says where to")
        return
    results.write(pathlib.Path(arguments.results or ROOT / "benches" / "results"))


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crossgate", default=ROOT / "target" / "release" / "crossgate", help="the built gateway")
    parser.add_argument("--quick", action="store_true", help="small numbers: does it work?")
    parser.add_argument("--only", action="append", choices=["tenants", "origins", "connections"], help="these parts alone")
    parser.add_argument("--results", help="the directory that results are written to")
    return parser.parse_args()


class Bench:
    def __init__(self, binary, directory, scale):
        self.binary, self.directory, self.scale = binary, directory, scale
        self.ports = Ports(free_port(), free_port(), free_port())

    def gateway(self, main):
        return Running("crossgate", [self.binary, "run", "--config", str(main)], self.ports.data, self.directory / "log")

    def start(self, main, host, asked):
        """Starts, asks until answered, and ends: the time that took, and the memory then."""
        gateway = self.gateway(main)
        with gateway as pid:
            expect("the first answer", Connection(self.ports.data).preflight(host, asked), 204)
            seconds = time.monotonic() - gateway.started
            return {"seconds": seconds, "cpu_seconds": cpu_seconds(pid), **memory_mib(pid)}

    def starts(self, main, host, asked):
        runs = [self.start(main, host, asked) for _ in range(self.scale.starts)]
        result = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        tell(f"start {result['seconds']:.2f} s, {result['rss_mib']:.0f} MiB resident, {result['peak_mib']:.0f} MiB at the peak")
        return {"start": result, "starts": runs}

    def many_tenants(self):
        scale = self.scale
        tenants = Tenants(self.directory / "tenants", self.ports, scale.tenants, scale.files, scale.origins_each)
        tell(f"writing {scale.tenants:,} tenants")
        main = tenants.write()
        last = scale.tenants - 1
        result = self.starts(main, tenants.host(last), tenants.origins(last)[-1])
        with self.gateway(main) as pid:
            # Tenants that no change touches.
            cases = [(tenants.host(number), tenants.origins(number)[-1]) for number in range(0, scale.tenants, scale.tenants // 100 or 1)]
            with Traffic(self.ports.data, TRAFFIC_RATE, cases) as traffic:
                changes = [self.change(tenants, number) for number in range(scale.changes)]
            result["changes_ms"], result["traffic"] = changes, {"rate": TRAFFIC_RATE, **traffic.result}
            tell(f"a change takes {statistics.median(changes):.0f} ms, {max(changes):.0f} at worst; traffic: {traffic.result}")
            result["reloads"] = self.reloads(tenants, pid)
        return result

    def change(self, tenants, number):
        """One file is replaced; how long until a connection that was there before gets the new answer, in milliseconds."""
        tenant, new = self.changed(number), f"https://new{number}.example"
        host, old = tenants.host(tenant), tenants.origins(tenant)[0]
        probe = Connection(self.ports.data)
        expect("before the change", (probe.preflight(host, old), probe.preflight(host, new)), (204, 403))
        tenants.replace_first_origin(tenant, new)
        begun = time.monotonic()
        while probe.preflight(host, new) != 204:
            if time.monotonic() > begun + CHANGE_SECONDS_MAX:
                sys.exit(f"a change is not live after {CHANGE_SECONDS_MAX} s")
            time.sleep(PROBE_SECONDS)
        took_ms = 1e3 * (time.monotonic() - begun)
        expect("after the change", probe.preflight(host, old), 403)
        probe.close()
        time.sleep(REST_SECONDS)
        return took_ms

    def changed(self, number):
        """Which tenant the change touches: each of another file, while there are any."""
        return (number * (self.scale.tenants // self.scale.files) + 7) % self.scale.tenants

    def reloads(self, tenants, pid):
        """Each after one file has changed: how long `POST /reload` takes, and what is resident afterwards and at the peak meanwhile."""
        before, cpu_before = memory_mib(pid), cpu_seconds(pid)
        forget_peak(pid)
        times_ms = []
        for number in range(self.scale.reloads):
            tenants.replace_first_origin(self.changed(number), f"https://again{number}.example")
            begun = time.monotonic()
            status, text = admin(self.ports.admin, "POST", "/reload")
            times_ms.append(1e3 * (time.monotonic() - begun))
            expect(f"a reload that says {text[:200]}", status, 200)
            probe = Connection(self.ports.data)
            expect("after the reload", probe.preflight(tenants.host(self.changed(number)), f"https://again{number}.example"), 204)
            probe.close()
        after, cpu_ms_each = memory_mib(pid), 1e3 * (cpu_seconds(pid) - cpu_before) / len(times_ms)
        tell(f"a reload takes {statistics.median(times_ms):.0f} ms, {max(times_ms):.0f} at worst; {after['rss_mib']:.0f} MiB after "
             f"{len(times_ms)}, {after['peak_mib']:.0f} at the peak")
        return {"times_ms": times_ms, "cpu_ms_each": cpu_ms_each, "rss_before_mib": before["rss_mib"], **after}

    def many_origins(self):
        tell(f"writing {self.scale.origins:,} origins")
        main = one_policy(self.directory / "origins", self.ports, self.scale.origins)
        return self.starts(main, "api.test", origin(self.scale.origins - 1))

    def idle_connections(self):
        main = one_policy(self.directory / "connections", self.ports, 1)
        upstream = Running("demo upstream", [self.binary, "demo-upstream", "--listen", f"127.0.0.1:{self.ports.upstream}", "--pages",
                                             f"127.0.0.1:{free_port()}"], self.ports.upstream, self.directory / "upstream.log")
        with upstream:
            return {name: self.idle(main, asks) for name, asks in (("silent", None), ("preflight", "preflight"), ("get", "get"))}

    def idle(self, main, asks):
        """What every connection adds to the resident memory, after it was used or not, in bytes."""
        with self.gateway(main) as pid:
            self.use(Connection(self.ports.data), "preflight")
            self.use(Connection(self.ports.data), "get")
            self.wait_for_active(0)
            before = settled_rss_kib(pid)
            connections = [Connection(self.ports.data) for _ in range(self.scale.connections)]
            if asks:
                for connection in connections:
                    self.use(connection, asks, closes=False)
            self.wait_for_active(len(connections))
            after = settled_rss_kib(pid)
            self.wait_for_active(len(connections))
            for connection in connections:
                connection.close()
            self.wait_for_active(0)
            left = settled_rss_kib(pid)
        each_bytes = (after - before) * 1024 / len(connections)
        tell(f"{len(connections):,} connections, {asks or 'silent'}: {each_bytes:,.0f} bytes each")
        return {"bytes_each": each_bytes, "before_kib": before, "after_kib": after, "closed_kib": left}

    def use(self, connection, asks, closes=True):
        ask = {"preflight": connection.preflight, "get": connection.get}[asks]
        expect(f"a {asks}", ask("api.test", origin(0)), 204 if asks == "preflight" else 200)
        if closes:
            connection.close()

    def wait_for_active(self, count):
        until, active = time.monotonic() + SETTLE_SECONDS_MAX, None
        while time.monotonic() < until:
            active = int(re.search(r"^crossgate_connections_active (\d+)", admin(self.ports.admin, "GET", "/metrics")[1], re.M).group(1))
            if active == count:
                return
            time.sleep(0.05)
        sys.exit(f"{active} connections are open where {count} were expected")


def expect(what, got, wanted):
    if got != wanted:
        sys.exit(f"{what}: {got}, where {wanted} was expected")


def cpu_seconds(pid):
    """User and system time so far."""
    return sum(processes.cpu_seconds([pid]))


def memory_kib(pid):
    """What is resident, and the most that ever was."""
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return tuple(int(re.search(rf"{name}:\s+(\d+)", text).group(1)) for name in ("VmRSS", "VmHWM"))


def memory_mib(pid):
    rss_kib, peak_kib = memory_kib(pid)
    return {"rss_mib": rss_kib / 1024, "peak_mib": peak_kib / 1024}


def forget_peak(pid):
    """The peak counts from now on."""
    pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")


def settled_rss_kib(pid):
    """What is resident once that has not changed for a while."""
    until, last, since = time.monotonic() + SETTLE_SECONDS_MAX, None, 0.0
    while time.monotonic() < until:
        now = memory_kib(pid)[0]
        if now != last:
            last, since = now, time.monotonic()
        if time.monotonic() > since + SETTLED_SECONDS:
            break
        time.sleep(0.05)
    return last


def tell(text):
    print(text, flush=True)


if __name__ == "__main__":
    main()
