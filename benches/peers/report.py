"""What was measured as a table, as JSON and as plots, and whether the aims are met.

A ratio is the median of the rounds' own ratios: what disturbs a round disturbs both sides of it.
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
    "64k": "GET of 64 KiB, proxied",
    "post": "POST of 1 KiB, proxied",
}
OURS = "crossgate"
# What our own time per request is held against, with one exact origin and one tenant: another engine's, and at most this share of it.
AIMS = [
    ("preflight", "nginx", 0.95), ("preflight", "haproxy", 0.85), ("preflight", "envoy", 0.45),
    ("get", "bare pingora", 1.05), ("get", "envoy", 0.60),
]
# And our own with one entry and one tenant.
OWN_AIM = 1.10
OWN_SETUPS = [
    ("preflight", Setup("wildcard", 10_000), Setup("wildcard")), ("preflight", Setup("exact", 1, 10_000), Setup()),
    ("get", Setup("wildcard", 10_000), Setup()), ("get", Setup("exact", 1, 10_000), Setup()),
]
# Below this the server was waiting for the load, and its rate is the load's.
BUSY_SHARE_MIN = 0.95


def medians(measured):
    return {key: {name: statistics.median(one[name] for one in rounds) for name in rounds[0]} for key, rounds in measured.items()}


class Results:
    def __init__(self, arguments, engines, workloads, costs, steady):
        self.arguments, self.engines, self.workloads, self.costs, self.steady = arguments, engines, workloads, costs, steady
        self.names = [engine.name for engine in engines]
        self.medians, self.steady_medians = medians(costs), medians(steady)

    def ratio(self, ours, other):
        """The median of the rounds' ratios of the time per request; None if one of them was not measured."""
        pairs = zip(self.costs.get(ours, []), self.costs.get(other, []))
        ratios = [mine["cpu_us"] / theirs["cpu_us"] for mine, theirs in pairs]
        return statistics.median(ratios) if ratios else None

    def aims(self):
        """Each as text, what is accepted at most, and the measured ratio."""
        one = Setup().title()
        rows = [(f"{TITLES[kind]}, against {name}", most, self.ratio((kind, one, OURS), (kind, one, name)))
                for kind, name, most in AIMS]
        rows += [(f"{TITLES[kind]}, our own with {many.title()}, against {one.title()}", OWN_AIM,
                  self.ratio((kind, many.title(), OURS), (kind, one.title(), OURS))) for kind, many, one in OWN_SETUPS]
        return [row for row in rows if row[2] is not None]

    def write(self, directory):
        # Needs what the virtual environment has, and is of no use to a run that writes nothing.
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
            "aims": [{"aim": text, "most": most, "measured": ratio, "met": ratio <= most} for text, most, ratio in self.aims()],
        }

    def markdown(self, with_plots=False):
        parts = [self.introduction(), self.aims_table(), self.cost_table(), self.rate_table(), self.latency_table()]
        if with_plots:
            parts.insert(2, "![CPU time per request](peers-cost.svg)\n\n"
                            "![CPU time per preflight, by what is configured](peers-scale.svg)\n\n![Requests per second](peers-rate.svg)\n")
        return "\n".join(part for part in parts if part)

    def introduction(self):
        arguments = self.arguments
        versions = "".join(f"- {engine.version()}\n" for engine in self.engines)
        return f"""# Side by side

Written by `make bench-peers` on {datetime.date.today().isoformat()}: {plural(arguments.rounds, "round")} of {arguments.seconds} s each,
interleaved. One CPU for the server, which runs one worker; another for `wrk` with {load.CONNECTIONS} connections; the upstream, an nginx,
has a third where there is one. No access logs; connections are kept on both sides. Origins and hosts are drawn anew for every
request; under wildcards each has a subdomain that was never seen before. What each engine is told is in `benches/peers/engines.py`;
answers of every kind are looked at before it is measured. Crossgate alone also counts by tenant and origin, and writes
`X-Forwarded-*` and a request id. Ratios are claims; times are this machine's.

- {machine()}
{versions}"""

    def aims_table(self):
        verdict = lambda ratio, most: "met" if ratio <= most else "**missed**"
        rows = [f"| {text} | {most:.2f} | {ratio:.2f} | {verdict(ratio, most)} |" for text, most, ratio in self.aims()]
        return table(["CPU time per request, Crossgate's as a share", "aim, at most", "measured", ""], rows, "## Aims")

    def cost_table(self):
        head = ("## CPU time per request\n\nOf the server's processes in microseconds: user + system, the median of the rounds. In "
                "brackets Crossgate's as a share of it, the median of the rounds' own ratios.")
        return self.by_workload(head, self.cost_cell)

    def cost_cell(self, key):
        median = self.medians[key]
        text = f"{median['cpu_us']:.1f} ({median['user_us']:.1f} + {median['system_us']:.1f})"
        ratio = self.ratio((*key[:2], OURS), key)
        return text if key[2] == OURS or ratio is None else f"{text} [{ratio:.2f}]"

    def rate_table(self):
        head = ("## Requests per second\n\nOn the server's one CPU. A tilde marks a server that was idle for more than a twentieth of the "
                "time, since the load or the upstream could do no more: it can do more than that.")
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
        """Rounds begin with another engine each; tables do not."""
        return sorted(steady.items(), key=lambda item: (list(TITLES).index(item[0][0]), self.names.index(item[0][1])))

    def latency_table(self):
        head = (f"## Latency\n\nIn microseconds at {load.STEADY_RATE:,} requests a second, with one origin and one tenant: medians "
                f"of the rounds' percentiles. `h2load` sends over {load.STEADY_CONNECTIONS} connections, all at the same moments, so most "
                "of it is waiting for one's turn. The last column is the rate that was held.")
        rows = [f"| {TITLES[kind]} | {name} | {one['p50_us']:,.0f} | {one['p90_us']:,.0f} | {one['p99_us']:,.0f} | {one['p999_us']:,.0f} "
                f"| {one['rate']:,.0f} |"
                for (kind, name), one in self.in_order(self.steady_medians)]
        return table(["workload", "engine", "50 %", "90 %", "99 %", "99.9 %", "a second"], rows, head)


def plural(count, noun):
    return f"{count} {noun}{'' if count == 1 else 's'}"


def table(columns, rows, head):
    if not rows:
        return ""
    return "\n".join([head, "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *rows, ""])
