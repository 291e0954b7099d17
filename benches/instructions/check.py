#!/usr/bin/env python3
"""Holds the instruction counts of decisions to the budgets of the rustc in use: check.py [--write] COUNTS.

COUNTS is what gungraun prints with `--output-format=json`: one line a bench. A budget is what one decision took when it was
written, so a gate on growth by more than a few per cent needs no second build to compare with. Budgets belong to a version of rustc,
since another one may compile the same code to more or fewer instructions.
"""

import argparse
import json
import pathlib
import platform
import subprocess
import sys

BUDGETS = pathlib.Path(__file__).resolve().parent / "budgets"
# As in src/lib.rs.
DECISIONS = 1024
GROWTH_PERCENT_MAX = 5.0
# The counts of the other processors go to files of their own.
PLAIN_MACHINE = "x86_64"
# How gungraun names instructions, and the atomic ones among them.
INSTRUCTIONS, ATOMICS = "Ir", "Ge"


def main():
    arguments = parse()
    counts, atomics = read(arguments.counts)
    path = BUDGETS / budget_name()
    if arguments.write:
        write(path, counts)
    faults = atomic_faults(atomics) + budget_faults(counts, budgets_in(path))
    for fault in faults:
        print(f"instructions: {fault}", file=sys.stderr)
    sys.exit(1 if faults else 0)


def parse():
    parser = argparse.ArgumentParser(description="Holds the instruction counts of decisions to their budgets.")
    parser.add_argument("counts", type=pathlib.Path, help="what gungraun printed with --output-format=json")
    parser.add_argument("--write", action="store_true", help="make the counts the budgets of the rustc in use")
    return parser.parse_args()


def read(path):
    """The instructions of one decision and the atomic ones of all, each by bench."""
    summaries = [json.loads(line) for line in path.read_text().splitlines()]
    if not summaries:
        sys.exit(f"{path}: there are no counts, so nothing was counted")
    counts = {name(summary): round(metric(summary, INSTRUCTIONS) / DECISIONS, 1) for summary in summaries}
    return counts, {name(summary): metric(summary, ATOMICS) for summary in summaries}


def name(summary):
    return f"{summary['function_name']}::{summary['id']}"


def metric(summary, kind):
    (profile,) = summary["profiles"]
    return profile["data"]["total"]["metrics"][kind]["values"]["new"]


def budget_name():
    """The file for this compiler and this kind of processor."""
    version = subprocess.run(["rustc", "-V"], check=True, capture_output=True, text=True).stdout.split()[1]
    machine = platform.machine()
    return f"rustc-{version}.json" if machine == PLAIN_MACHINE else f"rustc-{version}-{machine}.json"


def budgets_in(path):
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        known = ", ".join(sorted(file.stem for file in BUDGETS.glob("*.json"))) or "none"
        sys.exit(
            f"instructions: there are no budgets for {path.stem}, only for: {known}; "
            f"`make instructions-budget` on a tree without regressions writes {path.name}, which is to be committed"
        )


def write(path, counts):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(counts, indent=2) + "\n")
    print(f"wrote {path}")


def atomic_faults(atomics):
    return [
        f"{bench} has {count / DECISIONS:g} atomic instructions a decision, expected none: a lock, or a counter that cores share"
        for bench, count in atomics.items()
        if count
    ]


def budget_faults(counts, budgets):
    """Prints the table of counts, and gives what is wrong with them."""
    faults = []
    width = max(map(len, counts | budgets))
    print(f"{'instructions a decision':{width}} {'budget':>9} {'count':>9} {'growth':>7}")
    for bench, count in counts.items():
        budget = budgets.get(bench)
        if budget is None:
            print(f"{bench:{width}} {'-':>9} {count:9.1f}")
            faults.append(f"{bench} has no budget; `make instructions-budget` writes it")
            continue
        growth = 100 * (count / budget - 1)
        print(f"{bench:{width}} {budget:9.1f} {count:9.1f} {growth:+6.1f}%{remark(growth)}")
        if growth > GROWTH_PERCENT_MAX:
            faults.append(f"{bench} takes {growth:.1f} % more than its budget, at most {GROWTH_PERCENT_MAX:g} % are accepted")
    gone = [f"{bench} has a budget and was not counted" for bench in budgets if bench not in counts]
    return faults + gone


def remark(growth):
    if growth > GROWTH_PERCENT_MAX:
        return "  over its budget"
    return "  the budget may be lowered: make instructions-budget" if growth < -GROWTH_PERCENT_MAX else ""


if __name__ == "__main__":
    main()
