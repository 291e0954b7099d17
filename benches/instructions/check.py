#!/usr/bin/env python3
"""Compares the instruction counts of decisions and exchanges with the budgets of the rustc in use.

COUNTS is the output of gungraun with `--output-format=json`: one line per bench. EXCHANGES is what exchange.py wrote. A budget is the
count of one decision or exchange when it was written, so the check of growth needs no second build. Budgets belong to a version of rustc,
because another version may compile the same code to more or fewer instructions.
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
# What a feature may add to a decision that passes: the bench with it, the one without it, and the most.
ADDED_MAX = [
    *((f"protect::{case}", f"decide::{case}", 40) for case in ("allowed_exact_1000", "allowed_any", "no_origin")),
    *((f"group::{case}", f"decide::{case}", 40) for case in ("allowed_exact_1000", "allowed_exact_100000", "allowed_wildcard_1000")),
    ("group::denied_no_match", "group::ungrouped_no_match", 40),
    ("answer::actual_in_group", "answer::actual", 40),
    ("answer::preflight_in_group", "answer::preflight_full", 40),
]
# Other processors have their own files.
PLAIN_MACHINE = "x86_64"
# Gungraun's names of instructions and of atomic instructions.
INSTRUCTIONS, ATOMICS = "Ir", "Ge"


def main():
    arguments = parse()
    counts, atomics = read(arguments.counts)
    counts |= json.loads(arguments.exchanges.read_text())
    path = BUDGETS / budget_name()
    if arguments.write:
        write(path, counts)
    faults = atomic_faults(atomics) + budget_faults(counts, budgets_in(path)) + added_faults(counts)
    for fault in faults:
        print(f"instructions: {fault}", file=sys.stderr)
    sys.exit(1 if faults else 0)


def parse():
    parser = argparse.ArgumentParser(description="Compares the instruction counts of decisions and exchanges with their budgets.")
    parser.add_argument("counts", type=pathlib.Path, help="the output of gungraun with --output-format=json")
    parser.add_argument("exchanges", type=pathlib.Path, help="the output of exchange.py")
    parser.add_argument("--write", action="store_true", help="write the counts as budgets of the rustc in use")
    return parser.parse_args()


def read(path):
    """By bench, the instructions of one decision, and the atomic instructions of all."""
    summaries = [json.loads(line) for line in path.read_text().splitlines()]
    if not summaries:
        sys.exit(f"{path}: no counts: expected one line per bench")
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
            f"instructions: no budgets for {path.stem}, only for: {known}; "
            f"run `make instructions-budget` on a tree without regressions and commit {path.name}"
        )


def write(path, counts):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(counts, indent=2) + "\n")
    print(f"wrote {path}")


def atomic_faults(atomics):
    return [
        f"{bench} has {count / DECISIONS:g} atomic instructions per decision, expected none: look for a lock or a shared counter"
        for bench, count in atomics.items()
        if count
    ]


def budget_faults(counts, budgets):
    """Prints the table of counts and returns its faults."""
    faults = []
    width = max(map(len, counts | budgets))
    print(f"{'instructions of each':{width}} {'budget':>9} {'count':>9} {'growth':>7}")
    for bench, count in counts.items():
        budget = budgets.get(bench)
        if budget is None:
            print(f"{bench:{width}} {'-':>9} {count:9.1f}")
            faults.append(f"{bench} has no budget: run `make instructions-budget`")
            continue
        growth = 100 * (count / budget - 1)
        print(f"{bench:{width}} {budget:9.1f} {count:9.1f} {growth:+6.1f}%{remark(growth)}")
        if growth > GROWTH_PERCENT_MAX:
            faults.append(f"{bench} takes {growth:.1f} % more than its budget, expected at most {GROWTH_PERCENT_MAX:g} %")
    missing = [f"{bench} has a budget but no count" for bench in budgets if bench not in counts]
    return faults + missing


def added_faults(counts):
    """Prints what features add to a decision and returns those that add too much."""
    added = [(bench, counts[bench] - counts[plain], most) for bench, plain, most in ADDED_MAX]
    for bench, more, most in added:
        print(f"{bench} adds {more:.1f} instructions, at most {most}")
    return [f"{bench} adds {more:.1f} instructions, expected at most {most}" for bench, more, most in added if more > most]


def remark(growth):
    if growth > GROWTH_PERCENT_MAX:
        return "  over its budget"
    return "  lower the budget with make instructions-budget" if growth < -GROWTH_PERCENT_MAX else ""


if __name__ == "__main__":
    main()
