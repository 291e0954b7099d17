"""The rules for Prometheus: valid, each tested, and each alert with an entry in the runbook."""

import re
import subprocess

from binary import read_yaml
from paths import OPS

PROMETHEUS = OPS / "prometheus"
RULE_FILES = ("recording.yml", "alerts.yml")
SEVERITIES = {"critical", "warning", "info"}
ANNOTATIONS = {"summary", "description", "runbook"}


def faults(_):
    found = promtool("check", "rules", *RULE_FILES)
    # The token file is on the machine of whoever runs it, so that only the form is looked at.
    for config in ("prometheus.yml", "kubernetes.yml"):
        found += promtool("check", "config", "--syntax-only", config)
    for test in sorted((PROMETHEUS / "tests").glob("*.yml")):
        found += promtool("test", "rules", str(test))
    return found + untested() + [fault for alert in alerts() for fault in alert_faults(alert)] + forgotten_entries()


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
    """An alert has to ring for some series and to be silent for others, its time aside; a recorded series has to be asked for."""
    tests = [test for file in (PROMETHEUS / "tests").glob("*.yml") for test in read_yaml(file)[0]["tests"]]
    rings, silences = set(), set()
    for test in tests:
        cases = test.get("alert_rule_test", [])
        ringing = {case["alertname"] for case in cases if case["exp_alerts"]}
        rings |= ringing
        silences |= {case["alertname"] for case in cases} - ringing
    asked = {name for test in tests for case in test.get("promql_expr_test", []) for name in re.findall(r"[\w:]+", case["expr"])}
    known = [rule["alert"] for rule in alerts()]
    return ([f"no test has {name} ring" for name in known if name not in rings]
            + [f"no test has {name} be silent" for name in known if name not in silences]
            + [f"a test is of {name}, which is no alert" for name in sorted((rings | silences) - set(known))]
            + [f"no test asks for {rule['record']}" for rule in records() if rule["record"] not in asked])


def alert_faults(rule):
    name, annotations = rule["alert"], rule["annotations"]
    if set(annotations) != ANNOTATIONS:
        yield f"{name} has the annotations {sorted(annotations)}, expected {sorted(ANNOTATIONS)}"
    if rule["labels"].get("severity") not in SEVERITIES:
        yield f"{name} has no severity of {sorted(SEVERITIES)}"
    if annotations.get("runbook") != f"ops/RUNBOOK.md#{name.lower()}":
        yield f"the runbook of {name} is {annotations.get('runbook')}, expected ops/RUNBOOK.md#{name.lower()}"
    if name not in entries():
        yield f"RUNBOOK.md has no entry {name}"
    elif f"*{rule['labels']['severity']}" not in entries()[name]:
        yield f"RUNBOOK.md does not give {name} the severity that it has"
    if "`" not in annotations.get("description", "") and "/readyz" not in annotations.get("description", ""):
        yield f"the description of {name} names nothing to run"


def entries():
    """The text of every entry, by its alert."""
    parts = re.split(r"^### (\w+)\n", (OPS / "RUNBOOK.md").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


def forgotten_entries():
    known = {rule["alert"] for rule in alerts()}
    parts = ("**Look:**", "**Do:**", "**Harmless")
    return ([f"RUNBOOK.md has an entry {name}, which is no alert" for name in entries() if name not in known]
            + [f"the entry {name} of RUNBOOK.md lacks {part}" for name, text in entries().items() for part in parts if part not in text])
