#!/usr/bin/env python3
"""Holds documents, comments and names to docs/contributing/style.md: the words to avoid, the width of lines, and one definition a type name.

    check-prose.py        prints `file:line: what is wrong`; exit 1 if anything is
"""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

WIDTH_MAX = 100
CRATES = ("policy", "message", "config", "telemetry", "wire", "gateway")

AVOIDED = re.compile(
    r"\b(whoever|whomever|nobody|somebody|everybody|anybody|anew|beside|thereof|hence|meanwhile|alike|all the same"
    r"|is none|are none|tells|told|let go)\b",
    re.IGNORECASE,
)
# The style page names the words that it rules out.
WORDS_EXEMPT = {"docs/contributing/style.md"}
# Type names with a second definition that is not another meaning.
SAME_NAME = {
    # `config` describes the same sections to editors.
    "config/src/schema",
}
IDENTIFIER_WORDS = re.compile(r"(?:^|_)(whoever|nobody|somebody|everybody|anybody|anew|beside|told|tells)(?:_|$)")


def tracked(*patterns: str) -> list[Path]:
    """The files that belong to the project, new ones included."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "--deduplicate", "--", *patterns], check=True, capture_output=True, text=True
    )
    paths = (Path(line) for line in listed.stdout.splitlines())
    return [path for path in paths if path.exists() and path.parts[0] not in ("vendor", "target")]


def prose_lines(text: str):
    """The lines of a Markdown text outside fenced code, numbered."""
    in_code = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        elif not in_code:
            yield number, line


def is_wide(line: str) -> bool:
    """Tables and lines that a link or a code span makes long cannot be wrapped."""
    if len(line) <= WIDTH_MAX or line.lstrip().startswith("|"):
        return False
    unbreakable = re.sub(r"^\s*([-*>]|\d+\.|//[/!]?)?\s*", "", line)
    return " " in re.sub(r"`[^`]*`|\[[^]]*\]\([^)]*\)", lambda match: "x" * len(match.group()), unbreakable)


def check_markdown(path: Path) -> list[str]:
    found = []
    for number, line in prose_lines(path.read_text()):
        prose = re.sub(r"`[^`]*`", "``", line)
        if str(path) not in WORDS_EXEMPT and (word := AVOIDED.search(prose)):
            found.append(f"{path}:{number}: avoid `{word.group()}`")
        if is_wide(line):
            found.append(f"{path}:{number}: {len(line)} columns, {WIDTH_MAX} at most")
    return found


def check_rust(path: Path) -> list[str]:
    found = []
    in_code = False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        comment = re.match(r"\s*//[/!]?(.*)", line)
        if comment:
            if comment.group(1).lstrip().startswith("```"):
                in_code = not in_code
            prose = re.sub(r"`[^`]*`", "``", comment.group(1))
            if not in_code and (word := AVOIDED.search(prose)):
                found.append(f"{path}:{number}: avoid `{word.group()}`")
            if is_wide(line):
                found.append(f"{path}:{number}: {len(line)} columns, {WIDTH_MAX} at most")
        else:
            in_code = False
            name = re.search(r"\b(?:fn|struct|enum|trait|mod) (\w+)", line)
            if name and (word := IDENTIFIER_WORDS.search(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.group(1)).lower())):
                found.append(f"{path}:{number}: avoid `{word.group(1)}` in the name `{name.group(1)}`")
    return found


def check_types(paths: list[Path]) -> list[str]:
    """Every type name has one definition in the workspace: one word, one meaning."""
    places = defaultdict(list)
    for path in paths:
        if path.parts[0] not in CRATES or path.parts[1] != "src" or "tests" in path.with_suffix("").parts:
            continue
        if any(str(path).startswith(exempt) for exempt in SAME_NAME):
            continue
        code = path.read_text().split("#[cfg(test)]\nmod", 1)[0]
        for match in re.finditer(r"^(?:pub(?:\([^)]*\))? )?(?:struct|enum|trait) (\w+)", code, re.MULTILINE):
            places[match.group(1)].append(f"{path}:{code.count(chr(10), 0, match.start()) + 1}")
    return [f"{where[-1]}: `{name}` is also defined at {', '.join(where[:-1])}" for name, where in sorted(places.items()) if len(where) > 1]


def main() -> int:
    rust = tracked("*.rs")
    found = [line for path in tracked("*.md") for line in check_markdown(path)]
    found += [line for path in rust for line in check_rust(path)]
    found += check_types(rust)
    print("\n".join(found), file=sys.stderr) if found else print("prose: all good")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
