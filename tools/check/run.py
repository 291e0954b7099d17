#!/usr/bin/env python3
"""Compares ops/ and docs/ with the built gateway: run.py --crossgate BINARY.

When a metric is renamed, a panel becomes empty and an alert silent, and nothing else fails. So these checks ask the binary. They
start a gateway, send it requests of every kind and have a Prometheus scrape it with the shipped configuration. Every query must
find something. Every metric, label, option, configuration key and endpoint that ops/ and docs/ name must exist.
Files for a cluster or a container engine are only checked against schemas.
"""

import argparse
import pathlib
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
# benches/peers has the process handling.
sys.path.append(str(HERE.parent.parent / "benches" / "peers"))

import processes

import cli_page
import dashboard
import live
import manifests
import metrics_page
import names
import panels
import rules
from binary import Binary

# The first parts need the binary alone, the others a running gateway.
BINARY_PARTS = {"rules": rules.faults, "dashboard": dashboard.faults, "manifests": manifests.faults, "cli": cli_page.faults}
SITE_PARTS = {"names": names.faults, "metrics": metrics_page.faults, "queries": live.query_faults}


def main():
    arguments = parse()
    processes.end_on_signals()
    binary = Binary(arguments.crossgate.resolve())
    if not arguments.live:
        end_at(part_faults(binary, BINARY_PARTS))
    with tempfile.TemporaryDirectory(prefix="ops-") as directory, live.Site(binary, pathlib.Path(directory)) as site:
        if arguments.metrics_page:
            metrics_page.write(site)
        end_at(part_faults(site, SITE_PARTS))
        if arguments.panels:
            panels.draw(site, arguments.panels)


def parse():
    parser = argparse.ArgumentParser(description="Compares ops/ and docs/ with the built gateway.")
    parser.add_argument("--crossgate", type=pathlib.Path, required=True, help="the built gateway")
    parser.add_argument("--live", action="store_true", help="leave out checks that need no running gateway")
    parser.add_argument("--metrics-page", action="store_true", help="write the rows of docs/reference/metrics.md")
    parser.add_argument("--panels", type=pathlib.Path, help="draw panels of the dashboard to this SVG file; takes a minute more")
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
