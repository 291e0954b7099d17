#!/usr/bin/env python3
"""Holds the map of rows to the tests that it names: check-rows.py [ROWS].

Every row says what must hold, and names the tests that fail when it does not, or the reason why there is none. A test that is renamed
or removed, a row that lost its tests, and one that was never covered are told, each on a line of its own. The file says how it is
written. What a test really looks at is for whoever reads it.
"""

import argparse
import functools
import pathlib
import re
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
# A function under an attribute that makes it a test, inside of `proptest!` or not; other attributes and comments may stand between.
TEST = re.compile(
    r"^\s*#\[(?:\w+::)*(?:test|rstest|proptest|library_benchmark)\b[^\n]*\n(?:\s*(?://|#\[)[^\n]*\n)*\s*(?:pub )?(?:async )?fn (\w+)",
    re.MULTILINE,
)
# An input of a bench whose instructions have a budget.
BENCH = re.compile(r"^\s*#\[bench::(\w+)", re.MULTILINE)
CASE = re.compile(r"^\s*- (?:\{ )?(?:id|name): \"?([^\s,\"](?:[^,\"\n]*[^\s,\"])?)", re.MULTILINE)
SECTION_KEYS = {"id", "about", "last", "row"}
ROW_KEYS = {"id", "claim", "tests", "reason"}


def main():
    sections = tomllib.loads(parse().rows.read_text())["section"]
    rows = [row for section in sections for row in section["row"]]
    found = key_faults(sections, rows) + id_faults(sections, rows) + [fault for row in rows for fault in row_faults(row)]
    for fault in found:
        print(f"rows: {fault}", file=sys.stderr)
    if found:
        sys.exit(1)
    tests = {reference for row in rows for reference in row.get("tests", [])}
    alone = sum(not row.get("tests") for row in rows)
    print(f"{len(rows)} rows in {len(sections)} sections are covered: {len(rows) - alone} by {len(tests)} tests, {alone} by a reason alone")


def parse():
    parser = argparse.ArgumentParser(description="Holds the map of rows to the tests that it names.")
    parser.add_argument("rows", type=pathlib.Path, nargs="?", default=ROOT / "ops" / "rows.toml", help="the map")
    return parser.parse_args()


def key_faults(sections, rows):
    """A misspelt key would otherwise be a row without it."""
    unknown = [(one["id"], set(one) - keys) for ones, keys in ((sections, SECTION_KEYS), (rows, ROW_KEYS)) for one in ones]
    return [f"{name}: the key `{key}` is not known" for name, keys in unknown for key in sorted(keys)]


def id_faults(sections, rows):
    """Ids that are there twice, and numbers that do not go from 1 to a section's last one by one."""
    ids = [row["id"] for row in rows]
    faults = [f"{name} is there {ids.count(name)} times" for name in sorted(set(ids)) if ids.count(name) > 1]
    for section in sections:
        expected = list(range(1, section["last"] + 1))
        numbers = [number(section, row) for row in section["row"]]
        gone = [wanted for wanted in expected if wanted not in numbers]
        faults += [f"{section['id']}: there is no number {wanted}" for wanted in gone]
        if not gone and numbers != expected:
            faults.append(f"{section['id']}: the numbers are {numbers}, expected 1 to {section['last']} in order")
    return faults


def number(section, row):
    digits = row["id"].removeprefix(section["id"])
    return int(digits) if digits.isdecimal() else None


def row_faults(row):
    """What is wrong with one row."""
    faults = [] if row.get("claim", "").strip() else ["there is no claim"]
    if not row.get("tests") and not row.get("reason", "").strip():
        faults.append("it is not covered: there is neither a test nor a reason")
    faults += filter(None, map(reference_fault, row.get("tests", [])))
    return [f"{row['id']}: {fault}" for fault in faults]


def reference_fault(reference):
    """What is wrong with a reference, or nothing."""
    path, _, name = reference.partition("::")
    if not (ROOT / path).is_file():
        return f"{reference}: there is no such file"
    if name not in names_in(path):
        return f"{reference}: there is no such {'case' if path.endswith('.yaml') else 'test'} in it"
    return None


@functools.cache
def names_in(path):
    """The tests of a Rust file, or the cases of a YAML file."""
    text = (ROOT / path).read_text()
    patterns = [CASE] if path.endswith(".yaml") else [TEST, BENCH]
    return {name for pattern in patterns for name in pattern.findall(text)}


if __name__ == "__main__":
    main()
