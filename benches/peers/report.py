"""The results as tables, JSON and plots, and whether they meet the aims.

A ratio is the median of the ratios of the rounds, because a disturbance of a round affects both sides of its ratio.
"""

import datetime
import json
import statistics

import load
from engines import Setup
from processes import machine

TITLES = {
    "preflight": "preflight, allowed",
    "denied": "preflight, denied",
    "get": "GET, proxied",
    "handshake": "new connection and one preflight",
    "64k": "GET of 64 KiB, proxied",
    "post": "POST of 1 KiB, proxied",
}
OURS = "crossgate"
# The aims for Crossgate's time per request: at most this share of another engine's.
ONE, TLS, HTTP2 = Setup(), Setup(transport="tls"), Setup(transport="h2")
LOGGED, TLS_UPSTREAM, HTTP2_LOGGED = Setup(has_log=True), Setup(has_tls_upstream=True), Setup(transport="h2", has_log=True)
AIMS = [
    ("preflight", ONE, "nginx", 0.95), ("preflight", ONE, "haproxy", 0.85), ("preflight", ONE, "envoy", 0.45),
    ("get", ONE, "nginx", 0.95), ("get", ONE, "haproxy", 0.95), ("get", ONE, "envoy", 0.40),
    ("64k", ONE, "nginx", 1.00), ("64k", ONE, "haproxy", 0.85), ("64k", ONE, "envoy", 0.60),
    ("post", ONE, "nginx", 1.10), ("post", ONE, "haproxy", 1.10), ("post", ONE, "envoy", 0.50),
    ("preflight", TLS, "nginx", 0.85), ("preflight", TLS, "haproxy", 0.67),
    ("get", TLS, "nginx", 1.00), ("get", TLS, "haproxy", 0.95),
    ("get", TLS_UPSTREAM, "nginx", 1.00),
    ("preflight", HTTP2, "nginx", 0.65), ("preflight", HTTP2, "haproxy", 1.30), ("preflight", HTTP2, "envoy", 0.45),
    ("get", HTTP2, "nginx", 0.90), ("get", HTTP2, "haproxy", 1.15), ("get", HTTP2, "envoy", 0.40),
    ("handshake", HTTP2, "nginx", 0.68),
    ("preflight", LOGGED, "nginx", 0.95), ("get", LOGGED, "nginx", 1.00), ("preflight", HTTP2_LOGGED, "nginx", 0.75),
]
# The aim for many entries or tenants: at most this multiple of Crossgate's own time with one entry and one tenant.
OWN_AIM = 1.10
OWN_SETUPS = [
    ("preflight", Setup("wildcard", 10_000), Setup("wildcard")), ("preflight", Setup("exact", 1, 10_000), Setup()),
    ("get", Setup("wildcard", 10_000), Setup()), ("get", Setup("exact", 1, 10_000), Setup()),
]
READS = ("read", "readv", "recvfrom", "recvmsg")
WRITES = ("write", "writev", "sendto", "sendmsg", "sendfile")
# Below this share of busy time, the load or the upstream limited the rate.
BUSY_SHARE_MIN = 0.95


def medians(measured):
    return {key: {name: statistics.median(one[name] for one in rounds) for name in rounds[0]} for key, rounds in measured.items()}


class Results:
    def __init__(self, arguments, engines, workloads, costs, steady, steady_rates, calls):
        self.arguments, self.engines, self.workloads, self.costs, self.steady = arguments, engines, workloads, costs, steady
        self.steady_rates, self.calls = steady_rates, calls
        self.names = [engine.name for engine in engines]
        self.medians, self.steady_medians = medians(costs), medians(steady)

    def ratio(self, ours, other):
        """The median of the rounds' ratios of time per request. None: one side was not measured."""
        pairs = zip(self.costs.get(ours, []), self.costs.get(other, []))
        ratios = [mine["cpu_us"] / theirs["cpu_us"] for mine, theirs in pairs]
        return statistics.median(ratios) if ratios else None

    def aims(self):
        """For each aim its text, the largest accepted ratio, and the measured ratio."""
        rows = [(f"{TITLES[kind]}, {setup.title()}, against {name}", most,
                 self.ratio((kind, setup.title(), OURS), (kind, setup.title(), name))) for kind, setup, name, most in AIMS]
        rows += [(f"{TITLES[kind]}, our own with {many.title()}, against {one.title()}", OWN_AIM,
                  self.ratio((kind, many.title(), OURS), (kind, one.title(), OURS))) for kind, many, one in OWN_SETUPS]
        return [row for row in rows if row[2] is not None]

    def write(self, directory):
        # Imported here, because only runs that write results need matplotlib.
        import plots

        directory.mkdir(parents=True, exist_ok=True)
        (directory / "peers.md").write_text(self.markdown(with_plots=True))
        (directory / "peers.json").write_text(json.dumps(self.as_json(), indent=1) + "\n")
        plots.draw(directory, self)

    def as_json(self):
        key = lambda kind, setup, engine: {"workload": kind, "setup": setup, "engine": engine}
        ratio = lambda kind, setup, engine: self.ratio((kind, setup, OURS), (kind, setup, engine))
        return {
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            "versions": {engine.name: engine.version() for engine in self.engines},
            "rounds": self.arguments.rounds,
            "seconds": self.arguments.seconds,
            "connections": load.CONNECTIONS,
            "costs": [{**key(*of), "ratio": ratio(*of), "median": self.medians[of], "rounds": rounds}
                      for of, rounds in self.costs.items()],
            "latencies": [{"workload": kind, "engine": name, "median": self.steady_medians[kind, name], "rounds": rounds}
                          for (kind, name), rounds in self.steady.items()],
            "calls": [{**key(*of), "calls": calls} for of, calls in self.calls.items()],
            "aims": [{"aim": text, "most": most, "measured": ratio, "met": ratio <= most} for text, most, ratio in self.aims()],
        }

    def markdown(self, with_plots=False):
        parts = [self.introduction(), self.aims_table(), self.cost_table(), self.rate_table(), self.latency_table(), self.calls_table()]
        if with_plots:
            parts.insert(2, "![CPU time per request](peers-cost.svg)\n\n"
                            "![CPU time per preflight, by size of the configuration](peers-scale.svg)\n\n![Requests per second](peers-rate.svg)\n")
        return "\n".join(part for part in parts if part)

    def introduction(self):
        arguments = self.arguments
        versions = "".join(f"- {engine.version()}\n" for engine in self.engines)
        return f"""# Comparison with other servers

Written by `make bench-peers` on {datetime.date.today().isoformat()}: {plural(arguments.rounds, "interleaved round")} of
{arguments.seconds} s each. The server has one CPU and runs one worker. `wrk` has another CPU and {load.CONNECTIONS} connections. The
upstream, an nginx, has a third CPU if there is one. Connections are kept on both sides. Access logs
are off, except in rows with `access log`: there every engine writes a JSON line for each request.
Over HTTP/1.1 every request has a random origin and host, and with wildcards a new subdomain. Over
HTTP/2, `h2load` has {load.HTTP2_CONNECTIONS} connections of {load.HTTP2_STREAMS} streams and one origin. New connections come in bursts
of {load.BURST}. `benches/peers/engines.py` has the configuration of each engine. Answers of every kind are
checked before each measurement. Only Crossgate also counts by tenant and origin, and writes
`X-Forwarded-*` and a request id. The ratios are the claims. The times depend on this machine.

- {machine()}
{versions}"""

    def aims_table(self):
        verdict = lambda ratio, most: "met" if ratio <= most else "**missed**"
        rows = [f"| {text} | {most:.2f} | {ratio:.2f} | {verdict(ratio, most)} |" for text, most, ratio in self.aims()]
        return table(["CPU time per request, Crossgate's as a share", "aim, at most", "measured", ""], rows, "## Aims")

    def cost_table(self):
        head = ("## CPU time per request\n\nCPU time of the server's processes in microseconds: user + system, the median of the rounds. In\n"
                "brackets: Crossgate's time as a share of it, the median of the rounds' ratios.")
        return self.by_workload(head, self.cost_cell)

    def cost_cell(self, key):
        median = self.medians[key]
        text = f"{median['cpu_us']:.1f} ({median['user_us']:.1f} + {median['system_us']:.1f})"
        ratio = self.ratio((*key[:2], OURS), key)
        return text if key[2] == OURS or ratio is None else f"{text} [{ratio:.2f}]"

    def rate_table(self):
        head = ("## Requests per second\n\nThe rate on the server's one CPU. A tilde marks a server that was idle for more than a twentieth of\n"
                "the time, because the load or the upstream was the limit. Such a server can do more.")
        return self.by_workload(head, self.rate_cell)

    def rate_cell(self, key):
        median = self.medians[key]
        return f"{'~' if median['busy_share'] < BUSY_SHARE_MIN else ''}{median['rate']:,.0f}"

    def by_workload(self, head, cell):
        rows = []
        for kind, setup in self.workloads:
            keys = [(kind, setup.title(), name) for name in self.names]
            cells = [cell(key) if key in self.medians else "" for key in keys]
            rows.append(f"| {TITLES[kind]} | {setup.title()} | {' | '.join(cells)} |")
        return table(["workload", "origins", *self.names], rows, head)

    def in_order(self, steady):
        """In the order of the tables, because each round begins with another engine."""
        return sorted(steady.items(), key=lambda item: (list(TITLES).index(item[0][0]), self.names.index(item[0][1])))

    def latency_table(self):
        rates = " and ".join(f"{rate:,.0f} a second ({TITLES[kind]})" for kind, rate in self.steady_rates.items())
        head = (f"## Latency\n\nLatency in microseconds with one origin and one tenant, at {load.STEADY_SHARE:.0%} of nginx's highest rate:\n"
                f"{rates}.\nThe figures are the medians of the rounds' percentiles. `h2load` sends over\n"
                f"{load.STEADY_CONNECTIONS} connections, all at the same moments, so most of the latency is queueing. The last column is\n"
                "the achieved rate.")
        rows = [f"| {TITLES[kind]} | {name} | {one['p50_us']:,.0f} | {one['p90_us']:,.0f} | {one['p99_us']:,.0f} | {one['p999_us']:,.0f} "
                f"| {one['rate']:,.0f} |"
                for (kind, name), one in self.in_order(self.steady_medians)]
        return table(["workload", "engine", "50 %", "90 %", "99 %", "99.9 %", "a second"], rows, head)

    def calls_table(self):
        head = ("## System calls\n\nSystem calls of the server per request, by strace. A traced server is several times slower, so more\n"
                "answers wait for each of its turns than without.")
        rows = []
        for (kind, setup, name), calls in self.calls.items():
            reads, writes = (sum(calls.get(call, 0) for call in group) for group in (READS, WRITES))
            waits = calls.get("epoll_wait", 0) + calls.get("epoll_pwait", 0)
            rows.append(f"| {TITLES[kind]} | {setup} | {name} | {reads:.2f} | {writes:.2f} | {waits:.2f} | {sum(calls.values()):.2f} |")
        return table(["workload", "origins", "engine", "reads", "writes", "waits", "all"], rows, head)


def plural(count, noun):
    return f"{count} {noun}{'' if count == 1 else 's'}"


def table(columns, rows, head):
    if not rows:
        return ""
    return "\n".join([head, "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *rows, ""])
