"""Where things are, and which files are looked at."""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
OPS = ROOT / "ops"
# Everything that tells people or machines what to ask of the gateway. Not this checker itself, nor the samples and their schema, which
# the binary reads and writes.
SKIPPED = {OPS / "check", OPS / "config"}
SUFFIXES = {".md", ".yml", ".yaml", ".json", ".service", ".sh", ""}


def texts():
    """Every file under ops/ that may name something, with its text."""
    for path in sorted(OPS.rglob("*")):
        if path.is_file() and path.suffix in SUFFIXES and not SKIPPED & set(path.parents):
            yield path.relative_to(ROOT), path.read_text()
