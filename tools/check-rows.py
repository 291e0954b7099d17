#!/usr/bin/env python3
"""Checks the map of rows against the tests that it names: check-rows.py [ROWS].

Every row has a claim, and the tests that fail when the claim breaks or the reason why there is no
test. The script prints one line for each renamed or removed test and for each row without tests and
reason. The comment at the top of rows.toml describes the format. The script does not check whether
a test covers its claim.
"""

import argparse
import functools
import pathlib
import re
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
# A function with a test attribute, inside `proptest!` or outside. Other attributes and comments may
# be in between.
TEST = re.compile(
    r"^\s*#\[(?:\w+::)*(?:test|rstest|proptest|library_benchmark)\b[^\n]*\n(?:\s*(?://|#\[)[^\n]*\n)*\s*(?:pub )?(?:async )?fn (\w+)",
    re.MULTILINE,
)
# An input of a bench with an instruction budget.
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
    print(f"{len(rows)} rows in {len(sections)} sections: {len(rows) - alone} covered by {len(tests)} tests, {alone} with only a reason")


def parse():
    parser = argparse.ArgumentParser(description="Checks the map of rows against the tests that it names.")
    parser.add_argument("rows", type=pathlib.Path, nargs="?", default=ROOT / "tools" / "rows.toml", help="the map")
    return parser.parse_args()


def key_faults(sections, rows):
    """Unknown keys, such as misspelt ones."""
    unknown = [(one["id"], set(one) - keys) for ones, keys in ((sections, SECTION_KEYS), (rows, ROW_KEYS)) for one in ones]
    return [f"{name}: unknown key `{key}`" for name, keys in unknown for key in sorted(keys)]


def id_faults(sections, rows):
    """Repeated ids, and numbers that are not 1 to the section's last in order."""
    ids = [row["id"] for row in rows]
    faults = [f"{name}: the id is used {ids.count(name)} times" for name in sorted(set(ids)) if ids.count(name) > 1]
    for section in sections:
        expected = list(range(1, section["last"] + 1))
        numbers = [number(section, row) for row in section["row"]]
        missing = [wanted for wanted in expected if wanted not in numbers]
        faults += [f"{section['id']}: row {section['id']}{wanted} is missing" for wanted in missing]
        if not missing and numbers != expected:
            faults.append(f"{section['id']}: rows {numbers}, expected 1 to {section['last']} in order")
    return faults


def number(section, row):
    digits = row["id"].removeprefix(section["id"])
    return int(digits) if digits.isdecimal() else None


def row_faults(row):
    """The faults of one row."""
    faults = [] if row.get("claim", "").strip() else ["missing claim"]
    if not row.get("tests") and not row.get("reason", "").strip():
        faults.append("neither a test nor a reason")
    faults += filter(None, map(reference_fault, row.get("tests", [])))
    return [f"{row['id']}: {fault}" for fault in faults]


def reference_fault(reference):
    """The fault of a reference, or None."""
    path, _, name = reference.partition("::")
    if not (ROOT / path).is_file():
        return f"{reference}: no such file"
    if name not in names_in(path):
        return f"{reference}: no such {'case' if path.endswith('.yaml') else 'test'} in this file"
    return None


@functools.cache
def names_in(path):
    """The tests of a Rust file, or the cases of a YAML file."""
    text = (ROOT / path).read_text()
    patterns = [CASE] if path.endswith(".yaml") else [TEST, BENCH]
    return {name for pattern in patterns for name in pattern.findall(text)}


if __name__ == "__main__":
    main()
