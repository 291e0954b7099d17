"""docs/reference/cli.md names every command and option that the binary prints, and no others."""

import re

from paths import DOCS

PAGE = DOCS / "reference" / "cli.md"
OPTION = re.compile(r"--[a-z][a-z-]*")
# Every command has it.
COMMON = {"--help"}


def faults(binary):
    found = []
    text = PAGE.read_text()
    sections = page_sections(text)
    for command, options in binary.commands.items():
        section = next((body for title, body in sections.items() if command in title), None)
        if section is None or f"[`{command}`]" not in text:
            found.append(f"cli.md has no section or no row of the command {command}")
            continue
        named = set(OPTION.findall(section))
        found += [f"cli.md lacks the option {option} of {command}" for option in sorted(options - COMMON - named)]
    known = set().union(*binary.commands.values(), OPTION.findall(binary.run("--help")[1]))
    unknown = set(OPTION.findall(re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))) - known
    titles = {name for title in sections for name in title}
    return (found + [f"cli.md names the option {option}, which does not exist" for option in sorted(unknown)]
            + [f"cli.md has a section on {name}, which is not a command" for name in sorted(titles - set(binary.commands))])


def page_sections(text):
    """The text of each section on one or more commands, by their names."""
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    named = {tuple(title.split(", ")): body for title, body in zip(parts[1::2], parts[2::2])}
    return {title: body for title, body in named.items() if title != ("Exit codes",)}
