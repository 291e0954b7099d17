"""docs/reference/metrics.md lists every metric of a running gateway with its type, labels and help text, and every value of a label.

The rows of metrics are generated: `run.py --metrics-page` writes them from the gateway. Sections, their order and the
tables of label values are written by hand.
"""

import re

from paths import DOCS

PAGE = DOCS / "reference" / "metrics.md"
ROW = re.compile(r"^\| `(\w+)` \|.*\|$", re.MULTILINE)
# A table of values: its heading names the metrics and the label.
VALUES = re.compile(r"^### `(\w+)` of (.+)\n((?:.*\n)*?)(?=^#|\Z)", re.MULTILINE)
# Labels whose values come from the configuration.
OPEN_LABELS = {"tenant", "origin", "group", "upstream", "rule", "certificate", "version", "status"}
SAMPLE = re.compile(r'^(\w+?)(?:_bucket|_sum|_count)?\{(.*)\} ')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def faults(site):
    families = read(site)
    text = PAGE.read_text()
    listed = [name for name in ROW.findall(text) if name in families or re.match("crossgate|process", name)]
    found = [f"metrics.md lacks {name}" for name in families if name not in listed]
    found += [f"metrics.md lists {name}, which does not exist" for name in listed if name not in families]
    found += [f"metrics.md lists {name} twice" for name in sorted(set(listed)) if listed.count(name) > 1]
    if with_rows(text, families) != text:
        found.append("metrics.md differs from the gateway's help texts, types or labels; update it with run.py --metrics-page")
    return found + list(value_faults(text, families))


def write(site):
    PAGE.write_text(with_rows(PAGE.read_text(), read(site)))


def with_rows(text, families):
    return ROW.sub(lambda row: families[row.group(1)].row() if row.group(1) in families else row.group(0), text)


def value_faults(text, families):
    documented = {}
    for label, metrics, body in VALUES.findall(text):
        values = set(re.findall(r"^\| (`.+?`) \|", body, re.MULTILINE))
        for metric in re.findall(r"`(\w+)`", metrics):
            documented[metric, label] = {value for cell in values for value in re.findall(r"`(\w+)`", cell)}
    for name, family in families.items():
        for label, values in family.values.items():
            if label in OPEN_LABELS:
                continue
            if (name, label) not in documented:
                yield f"metrics.md has no heading `{label}` of {name}, with the values {sorted(values)}"
            else:
                yield from (f"metrics.md lacks the value {value} of {label} of {name}" for value in sorted(values - documented[name, label]))


class Metric:
    def __init__(self, name, help_text):
        self.name, self.help = name, help_text
        self.type, self.values = "untyped", {}

    def row(self):
        labels = ", ".join(f"`{label}`" for label in self.values)
        return f"| `{self.name}` | {self.type} | {labels} | {self.help} |"


def read(site):
    """Every metric of /metrics, by its name."""
    families, current = {}, None
    for line in site.admin("GET", "/metrics")[1].splitlines():
        if line.startswith("# HELP "):
            _, _, name, help_text = line.split(" ", 3)
            current = families.setdefault(name, Metric(name, help_text))
        elif line.startswith("# TYPE "):
            current.type = line.split(" ")[3]
        elif match := SAMPLE.match(line):
            for label, value in LABEL.findall(match.group(2)):
                if label != "le":
                    current.values.setdefault(label, set()).add(value)
    return families
