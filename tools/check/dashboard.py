"""Checks the dashboard as far as that is possible without Grafana, and reads its queries."""

import json
import re

from paths import OPS

PATH = OPS / "grafana" / "crossgate.json"
# Panel types that are part of Grafana.
TYPES = {"row", "timeseries", "stat", "table"}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# The data source of the annotation list that every dashboard has.
OWN_DATASOURCE = {"type": "grafana", "uid": "-- Grafana --"}
COLUMNS = 24
BUILT_IN = {"__rate_interval", "__interval", "__range"}


def read():
    return json.loads(PATH.read_text())


def faults(_):
    dashboard = read()
    found = [f"the dashboard lacks {key}" for key in ("uid", "title", "schemaVersion", "time", "templating") if key not in dashboard]
    shown = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    if len(ids) != len(set(ids)):
        found.append("two panels of the dashboard have the same id")
    for panel in shown:
        found += [f"the panel {panel['title']!r} {fault}" for fault in panel_faults(panel)]
    others = [source for source in datasources(dashboard) if source not in (DATASOURCE, OWN_DATASOURCE)]
    found += [f"the dashboard uses the data source {source}, expected the selected one" for source in others]
    return found + overlaps(dashboard["panels"]) + unknown_variables(dashboard)


def datasources(part):
    """The data sources of panels, queries, annotations and variables."""
    if isinstance(part, dict):
        own = [part["datasource"]] if "datasource" in part else []
        return own + [source for value in part.values() for source in datasources(value)]
    return [source for value in part for source in datasources(value)] if isinstance(part, list) else []


def panel_faults(panel):
    if panel["type"] not in TYPES:
        yield f"is a {panel['type']}, expected one of {sorted(TYPES)}"
    if not panel.get("description"):
        yield "has no description"
    letters = [target["refId"] for target in panel["targets"]]
    if not letters or len(letters) != len(set(letters)):
        yield "has no queries, or two with the same letter"


def overlaps(panels):
    taken, found = {}, []
    for panel in panels:
        place = panel["gridPos"]
        if place["x"] + place["w"] > COLUMNS:
            found.append(f"the panel {panel['title']!r} is wider than the dashboard")
        for cell in ((x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])):
            other = taken.setdefault(cell, panel["title"])
            if other != panel["title"]:
                found.append(f"the panels {other!r} and {panel['title']!r} overlap")
                break
    return found


def unknown_variables(dashboard):
    known = {variable["name"] for variable in dashboard["templating"]["list"]} | BUILT_IN
    named = {name for _, query, _ in queries(dashboard) for name in re.findall(r"\$\{?(\w+)", query)}
    return [f"the dashboard has no variable {name}" for name in sorted(named - known)]


def queries(dashboard):
    """The place of each query, the query, and the labels that its legend shows."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield f"panel {panel['title']!r}", target["expr"], re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])
    for annotation in dashboard["annotations"]["list"]:
        if "expr" in annotation:
            yield f"annotation {annotation['name']!r}", annotation["expr"], re.findall(r"\{\{(\w+)\}\}", annotation["titleFormat"])
    for variable in dashboard["templating"]["list"]:
        match = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]) if variable["type"] == "query" else None
        if match:
            yield f"variable {variable['name']!r}", match.group(1), [match.group(2)]
