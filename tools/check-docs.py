#!/usr/bin/env python3
"""Checks every Markdown file of the repository: links and their anchors, lengths, and the table of contents of docs/.

Prints `file:line: what is wrong` and exits with 1. Links to other sites are not followed.
"""

import functools
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
SUMMARY = DOCS / "SUMMARY.md"
LEFT_OUT = ("vendor/", "target/")
README_LINES_MAX = 120
PAGE_LINES_MAX = 250
DESIGN_LINES_MAX = 200
FENCE = re.compile(r" {0,9}(`{3,}|~{3,})")
HEADING = re.compile(r" {0,3}#{1,6}\s+(.*?)\s*#*\s*$")
CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")
# Inline links and images, and definitions of reference links. A title may follow the target.
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)|^ {0,3}\[[^\]]+\]:\s*<?([^\s>]+)>?")
ANCHOR = re.compile(r"""<a\s+(?:id|name)=["']([^"']+)["']""")


def main():
    pages = list_pages()
    faults = [fault for page in pages for check in (link_faults, length_faults) for fault in check(page)]
    faults += summary_faults(pages)
    for page, line, what in faults:
        print(f"{page.relative_to(ROOT)}:{line}: {what}")
    if faults:
        sys.exit(1)
    print(f"docs: {len(pages)} pages are good")


def list_pages():
    """Markdown files that git tracks, or that are new and not ignored."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [ROOT / name for name in sorted(set(listed)) if not name.startswith(LEFT_OUT) and (ROOT / name).is_file()]


def link_faults(page):
    for number, line in prose(page):
        for match in LINK.finditer(CODE.sub("", line)):
            target = match.group(1) or match.group(2)
            # A scheme, or another site.
            if not re.match(r"[a-z][a-z0-9+.-]*:|//", target):
                yield from ((page, number, what) for what in target_faults(page, target))


def target_faults(page, target):
    path, _, anchor = target.partition("#")
    if path.startswith("/"):
        return [f"the link {target} is absolute, expected one relative to this file"]
    file = (page.parent / path).resolve() if path else page
    if not file.is_relative_to(ROOT):
        return [f"the link {target} leads out of the repository"]
    if not file.exists():
        return [f"the link {target} leads to no file"]
    if anchor and file.suffix == ".md" and anchor not in anchors(file):
        return [f"the link {target} names no heading of {file.relative_to(ROOT)}"]
    return []


def length_faults(page):
    count, limit = len(page.read_text().splitlines()), lines_max(page)
    if limit is not None and count > limit:
        yield page, count, f"the page has {count} lines, expected at most {limit}"


def lines_max(page):
    if page == ROOT / "README.md":
        return README_LINES_MAX
    if DOCS not in page.parents or DOCS / "reference" in page.parents:
        return None
    return DESIGN_LINES_MAX if DOCS / "design" in page.parents else PAGE_LINES_MAX


def summary_faults(pages):
    if not SUMMARY.is_file():
        return [(SUMMARY, 1, "the table of contents is missing")]
    targets = re.findall(r"\]\(([^)#\s]+)", SUMMARY.read_text())
    listed = {(DOCS / target).resolve() for target in targets}
    missing = [page for page in pages if DOCS in page.parents and page != SUMMARY and page not in listed]
    return [(page, 1, "the page is not listed in docs/SUMMARY.md") for page in missing]


@functools.cache
def anchors(page):
    """The anchors that GitHub makes of a page's headings, and those that are written out."""
    found, seen = set(), {}
    for _, line in prose(page):
        found.update(ANCHOR.findall(line))
        heading = HEADING.match(line)
        if heading:
            slug = slug_of(heading.group(1))
            count = seen.get(slug, 0)
            seen[slug] = count + 1
            found.add(f"{slug}-{count}" if count else slug)
    return found


def slug_of(heading):
    """Lower case; of links their text; letters, digits, `-` and `_` remain, and each space becomes a dash."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")


def prose(page):
    """The numbered lines outside of fenced code."""
    fence = None
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        mark = FENCE.match(line)
        if fence is None and mark:
            fence = mark.group(1)
        elif fence is None:
            yield number, line
        elif mark and mark.group(1).startswith(fence) and not line.strip().strip(fence[0]):
            fence = None


if __name__ == "__main__":
    main()
