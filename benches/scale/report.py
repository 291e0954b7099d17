"""The results as a table and as JSON, and whether they meet the aims."""

import dataclasses
import datetime
import json
import statistics

from processes import machine

KIB = 1024
CONNECTION_TITLES = {"silent": "nothing sent yet", "preflight": "one preflight answered", "get": "one GET proxied"}


class Results:
    def __init__(self, scale, measured, version, is_quick):
        self.scale, self.measured, self.version, self.is_quick = scale, measured, version, is_quick

    def rows(self):
        """For each row the title, the measured value, its unit, and the largest accepted value or None."""
        rows = []
        if "tenants" in self.measured:
            rows += self.tenants_rows(self.measured["tenants"])
        if "origins" in self.measured:
            what = f"{self.scale.origins:,} origins in one policy"
            start = self.measured["origins"]["start"]
            rows += [(f"{what}: start to first answer", start["seconds"], "s", None),
                     (f"{what}: CPU time of the start", start["cpu_seconds"], "s", None),
                     (f"{what}: resident", start["rss_mib"], "MiB", None),
                     (f"{what}: resident at the peak of the start", start["peak_mib"], "MiB", None)]
        for state, idle in self.measured.get("connections", {}).items():
            what = f"each of {self.scale.connections:,} idle connections, {CONNECTION_TITLES[state]}"
            rows.append((what, idle["bytes_each"] / KIB, "KiB", 16))
        return rows

    def tenants_rows(self, tenants):
        start, reloads, traffic, changes = tenants["start"], tenants["reloads"], tenants["traffic"], tenants["changes_ms"]
        times_ms = reloads["times_ms"]
        what = f"{self.scale.tenants:,} tenants"
        return [
            (f"{what}: start to first answer", start["seconds"], "s", 3),
            (f"{what}: CPU time of the start", start["cpu_seconds"], "s", None),
            (f"{what}: resident", start["rss_mib"], "MiB", 400),
            (f"{what}: resident at the peak of the start", start["peak_mib"], "MiB", 400),
            (f"one file changed to the new answer, median of {len(changes)}", statistics.median(changes), "ms", 200),
            (f"one file changed to the new answer, worst of {len(changes)}", max(changes), "ms", 200),
            (f"errors during the changes, of {traffic['requests']:,} preflights at {traffic['rate']} a second", traffic["errors"], "", 0),
            ("the slowest of these preflights", traffic["worst_ms"], "ms", None),
            (f"`POST /reload` after one file changed, median of {len(times_ms)}", statistics.median(times_ms), "ms", None),
            ("`POST /reload`, worst", max(times_ms), "ms", None),
            ("CPU time of the gateway for each of them", reloads["cpu_ms_each"], "ms", None),
            (f"{what}: resident after these reloads", reloads["rss_mib"], "MiB", None),
            (f"{what}: resident at their peak", reloads["peak_mib"], "MiB", None),
        ]

    def markdown(self):
        scale = self.scale
        quick = " in quick mode, whose figures do not apply to the aims" if self.is_quick else ""
        lines = [f"""# Size

Written by `make bench-scale` on {datetime.date.today().isoformat()}{quick}. {scale.tenants:,} tenants with {scale.origins_each}
origins each, on one shared policy, are in {scale.files:,} files of `tenantsDir`. Starts are medians of {scale.starts},
with the files in the page cache. A changed file is renamed into place. Memory is that of the
process (`VmRSS`, `VmHWM`), without the kernel's memory of sockets. `benches/scale/` has the
measurement.

- {machine()}
- {self.version}

| what | measured | aim, at most | |
|---|---|---|---|"""]
        return "\n".join(lines + [row_text(*row) for row in self.rows()]) + "\n"

    def as_json(self):
        return {
            "date": datetime.date.today().isoformat(), "machine": machine(), "version": self.version, "quick": self.is_quick,
            "scale": dataclasses.asdict(self.scale), "measured": self.measured,
            "aims": [{"aim": what, "most": most, "measured": value, "unit": unit, "met": value <= most}
                     for what, value, unit, most in self.rows() if most is not None],
        }

    def write(self, directory):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "scale.md").write_text(self.markdown())
        (directory / "scale.json").write_text(json.dumps(self.as_json(), indent=1) + "\n")


def row_text(what, value, unit, most):
    aim = f"{most} {unit}".strip() if most is not None else ""
    verdict = "" if most is None else "met" if value <= most else "**missed**"
    return f"| {what} | {shown(value)} {unit} | {aim} | {verdict} |".replace("  |", " |")


def shown(value):
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.2f}" if value < 10 else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
