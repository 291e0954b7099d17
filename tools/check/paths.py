"""Paths, and the files that are checked."""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
OPS = ROOT / "ops"
DOCS = ROOT / "docs"
# Files that name metrics, commands, keys or endpoints of the gateway. The samples and their schema are left out: the
# binary reads and writes those.
SKIPPED = {OPS / "config"}
SUFFIXES = {".md", ".yml", ".yaml", ".json", ".service", ".sh", ""}
# Pages about the gateway alone. Other pages of docs/ and the README also name keys and paths of other programs, so only
# their metrics and commands are checked.
OWN_PAGES = [DOCS / "operations", DOCS / "reference"]


def texts():
    """Every file under ops/, docs/operations and docs/reference that names something of the gateway, with its text."""
    for directory in (OPS, *OWN_PAGES):
        for path in sorted(directory.rglob("*")):
            if path.is_file() and path.suffix in SUFFIXES and not SKIPPED & set(path.parents):
                yield path.relative_to(ROOT), path.read_text()


def other_pages():
    """The README and the other pages of docs/, with their text."""
    for path in sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")]):
        if not set(OWN_PAGES) & set(path.parents):
            yield path.relative_to(ROOT), path.read_text()
