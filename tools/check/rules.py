"""Checks the rules for Prometheus: they are valid and tested, and each alert has an entry in the runbook."""

import re
import subprocess

import dashboard
from binary import read_yaml
from paths import DOCS, OPS

PROMETHEUS = OPS / "prometheus"
RUNBOOK = DOCS / "operations"
INDEX = RUNBOOK / "runbook.md"
MONITORING = RUNBOOK / "monitoring.md"
RULE_FILES = ("recording.yml", "alerts.yml")
SEVERITIES = {"critical", "warning", "info"}
ANNOTATIONS = {"summary", "description", "runbook"}


def faults(_):
    found = promtool("check", "rules", *RULE_FILES)
    # The token file is on the operator's machine, so only the syntax is checked.
    for config in ("prometheus.yml", "kubernetes.yml"):
        found += promtool("check", "config", "--syntax-only", config)
    for test in sorted((PROMETHEUS / "tests").glob("*.yml")):
        found += promtool("test", "rules", str(test))
    return (found + untested() + [fault for alert in alerts() for fault in alert_faults(alert)] + forgotten_entries()
            + unknown_panels())


def promtool(*arguments):
    done = subprocess.run(["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    return [] if done.returncode == 0 else [f"promtool {' '.join(arguments)}: {done.stdout}{done.stderr}"]


def all_rules():
    return [rule for file in RULE_FILES for group in read_yaml(PROMETHEUS / file)[0]["groups"] for rule in group["rules"]]


def alerts():
    return [rule for rule in all_rules() if "alert" in rule]


def records():
    return [rule for rule in all_rules() if "record" in rule]


def untested():
    """Every alert must have a test in which it fires and one in which it never does. Every recorded series must be tested."""
    tests = [test for file in (PROMETHEUS / "tests").glob("*.yml") for test in read_yaml(file)[0]["tests"]]
    fires, silences = set(), set()
    for test in tests:
        cases = test.get("alert_rule_test", [])
        firing = {case["alertname"] for case in cases if case["exp_alerts"]}
        fires |= firing
        silences |= {case["alertname"] for case in cases} - firing
    asked = {name for test in tests for case in test.get("promql_expr_test", []) for name in re.findall(r"[\w:]+", case["expr"])}
    known = [rule["alert"] for rule in alerts()]
    return ([f"{name} fires in no test" for name in known if name not in fires]
            + [f"{name} is silent in no test" for name in known if name not in silences]
            + [f"a test names the unknown alert {name}" for name in sorted((fires | silences) - set(known))]
            + [f"no test queries {rule['record']}" for rule in records() if rule["record"] not in asked])


def alert_faults(rule):
    name, severity, annotations = rule["alert"], rule["labels"].get("severity"), rule["annotations"]
    if set(annotations) != ANNOTATIONS:
        yield f"{name} has the annotations {sorted(annotations)}, expected {sorted(ANNOTATIONS)}"
    if severity not in SEVERITIES:
        yield f"{name} has the severity {severity}, expected one of {sorted(SEVERITIES)}"
    if name not in entries():
        yield f"the runbook has no entry {name}"
        return
    page, text = entries()[name]
    link = f"{page.name}#{name.lower()}"
    if annotations.get("runbook") != f"docs/operations/{link}":
        yield f"the runbook of {name} is {annotations.get('runbook')}, expected docs/operations/{link}"
    if f"*{severity}.*" not in text:
        yield f"the entry {name} of the runbook has another severity than {severity}"
    if f"| [{name}]({link}) | {severity} |" not in INDEX.read_text():
        yield f"the index of the runbook lacks `| [{name}]({link}) | {severity} |`"
    if "`" not in annotations.get("description", "") and "/readyz" not in annotations.get("description", ""):
        yield f"the description of {name} names no command, field or endpoint"


def runbook_pages():
    return sorted(RUNBOOK.glob("runbook-*.md"))


def entries():
    """Page and text of every entry, by its alert."""
    found = {}
    for page in runbook_pages():
        parts = re.split(r"^### (\w+)\n", page.read_text(), flags=re.MULTILINE)
        found |= {name: (page, text) for name, text in zip(parts[1::2], parts[2::2])}
    return found


def forgotten_entries():
    known = {rule["alert"] for rule in alerts()}
    parts = ("**Look:**", "**Do:**", "**Harmless")
    counted = [] if f"\n[{len(known)},[]]\n" in MONITORING.read_text() else [f"{MONITORING.name} lacks the count [{len(known)},[]] of alerts"]
    return (counted + [f"the runbook has an entry {name}, which is not an alert" for name in entries() if name not in known]
            + [f"the entry {name} of the runbook lacks {part}"
               for name, (_, text) in entries().items() for part in parts if part not in text])


def unknown_panels():
    """Panels that the runbook names, in italics, must be panels of the dashboard."""
    titles = {panel["title"] for panel in dashboard.read()["panels"]}
    found = []
    for page in [INDEX, *runbook_pages()]:
        named = re.findall(r"(?<![*\w])\*([A-Z][^*]+)\*(?![*\w])", page.read_text())
        found += [f"{page.name} names the panel {' '.join(name.split())!r}, which the dashboard lacks"
                  for name in named if " ".join(name.split()) not in titles]
    return found
