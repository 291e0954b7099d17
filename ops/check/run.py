#!/usr/bin/env python3
"""Holds ops/ to what the gateway really is: run.py --crossgate BINARY.

Dashboards, alerts and manifests rot unseen: nothing fails when a metric is renamed but a panel stays empty and an alert silent. So the
binary is asked. A gateway is started and given requests of every kind, a Prometheus scrapes it with the configuration that is shipped,
and every query has to find something; every metric, label, option, configuration key and endpoint that ops/ names has to exist.
What needs a cluster or a container engine is checked against schemas alone.
"""

import argparse
import pathlib
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
# The servers' process handling is that of the side-by-side runs.
sys.path.append(str(HERE.parent.parent / "benches" / "peers"))

import processes

import dashboard
import live
import manifests
import names
import panels
import rules
from binary import Binary


def main():
    arguments = parse()
    processes.end_on_signals()
    binary = Binary(arguments.crossgate.resolve())
    if not arguments.live:
        end_at(part_faults(binary, {"rules": rules.faults, "dashboard": dashboard.faults, "manifests": manifests.faults}))
    with tempfile.TemporaryDirectory(prefix="ops-") as directory, live.Site(binary, pathlib.Path(directory)) as site:
        end_at(part_faults(site, {"names": names.faults, "queries": live.query_faults}))
        if arguments.panels:
            panels.draw(site, arguments.panels)


def parse():
    parser = argparse.ArgumentParser(description="Holds ops/ to what the gateway really is.")
    parser.add_argument("--crossgate", type=pathlib.Path, required=True, help="the built gateway")
    parser.add_argument("--live", action="store_true", help="leave out what needs no gateway")
    parser.add_argument("--panels", type=pathlib.Path, help="draw panels of the dashboard to this SVG; takes a minute more")
    return parser.parse_args()


def part_faults(subject, parts):
    faults = []
    for part, check in parts.items():
        begun = time.monotonic()
        found = check(subject)
        print(f"ops: {part}: {f'{len(found)} faults' if found else 'good'}, {time.monotonic() - begun:.1f} s", flush=True)
        faults += found
    return faults


def end_at(faults):
    for fault in faults:
        print(f"ops: {fault}", file=sys.stderr)
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    main()
