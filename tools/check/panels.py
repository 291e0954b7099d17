"""Draws some panels of the dashboard as SVG, from a minute of generated traffic, for readers without Grafana.

The queries are those of the dashboard. The traffic is the same in each run: two rounds of all requests a second, with a period of foreign
origins and a period in which an upstream is down. There are no durations, because the build is not optimised, and no stacked series.
"""

import html
import math
import time

import dashboard
import promql
from load import APP, HOST

TITLES = ("By verdict", "Denials by reason", "Top configured origins", "By kind", "Cached answers: hit ratio", "Errors")
RUN_SECONDS = 60
# The seconds with requests of foreign origins, and with requests to the upstream that is down.
FOREIGN, DOWN = range(15, 30), range(38, 50)
RATE = "10s"
WIDTH, HEIGHT, COLUMNS, MARGIN, HEADER = 420, 220, 3, 46, 54
LINES_MAX = 8
COLOURS = ("#3274d9", "#e02f44", "#ff9830", "#56a64b", "#8f3bb8", "#0a8f8f", "#b877d9", "#7a7a7a")
OWN = {"allow": "#56a64b", "deny": "#e02f44", "would_deny": "#ff9830", "would_allow": "#96d98d"}
# Factor and unit.
UNITS = {"reqps": (1, "/s"), "ops": (1, "/s"), "percentunit": (100, " %")}


def draw(site, path):
    begun = time.time()
    drive(site)
    panels = {panel["title"]: panel for panel in dashboard.read()["panels"]}
    rows = math.ceil(len(TITLES) / COLUMNS)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{COLUMNS * WIDTH}" height="{HEADER + rows * HEIGHT}" '
             'font-family="sans-serif" font-size="11" fill="#333">', '<rect width="100%" height="100%" fill="#fff"/>',
             '<text x="14" y="22" font-size="15" font-weight="bold">Crossgate, panels of ops/grafana/crossgate.json</text>',
             f'<text x="14" y="40" fill="#777">A test run, not a measurement: {RUN_SECONDS} s of generated traffic from one client, with '
             f'foreign origins from {FOREIGN.start} s and an upstream that is down from {DOWN.start} s (tools/check/panels.py).</text>']
    for place, title in enumerate(TITLES):
        x, y = place % COLUMNS * WIDTH, HEADER + place // COLUMNS * HEIGHT
        parts.append(f'<g transform="translate({x},{y})">{panel_text(site, panels[title], begun)}</g>')
    path.write_text("\n".join([*parts, "</svg>"]) + "\n")


def drive(site):
    begun = time.monotonic()
    for second in range(RUN_SECONDS):
        site.loaded.round(100 + second, times=2)
        for _ in range(30 if second in FOREIGN else 0):
            site.loaded.ask("GET", "/orders", HOST, {"Origin": "https://evil.example"})
        for _ in range(20 if second in DOWN else 0):
            site.loaded.ask("GET", "/down", HOST, {"Origin": APP})
        time.sleep(max(0, begun + second + 1 - time.monotonic()))


def panel_text(site, panel, begun):
    title = f'<text x="14" y="16" font-weight="bold">{html.escape(panel["title"])}</text>'
    return title + (table_text(site, panel) if panel["type"] == "table" else chart_text(site, panel, begun))


def table_text(site, panel):
    found = site.ask_prometheus("query", query=filled(panel["targets"][0]["expr"]))
    rows = sorted(((float(one["value"][1]), one["metric"]) for one in found), key=lambda row: -row[0])[:9]
    line = lambda y, cells: "".join(f'<text x="{x}" y="{y}">{html.escape(cell)}</text>' for x, cell in zip((14, 82, 292, 352), cells))
    lines = [line(38, ("tenant", "origin", "verdict", "requests"))]
    lines += [line(56 + 16 * number, (labels["tenant"], labels["origin"], labels["verdict"], f"{value:.0f}"))
              for number, (value, labels) in enumerate(rows)]
    return "".join(lines)


def chart_text(site, panel, begun):
    lines = []
    for target in panel["targets"]:
        found = site.ask_prometheus("query_range", query=filled(target["expr"]), start=begun, end=begun + RUN_SECONDS, step=1)
        for one in found:
            values = [(at - begun, float(value)) for at, value in one["values"]]
            lines.append((legend(target["legendFormat"], one["metric"]), values))
    largest = lambda line: max((value for _, value in line[1] if not math.isnan(value)), default=0)
    # If there are more lines than can be drawn, lines without counts are left out.
    few = [line for line in lines if len(lines) <= LINES_MAX or largest(line)]
    lines = sorted(few, key=largest, reverse=True)[:LINES_MAX]
    factor, unit = UNITS[panel["fieldConfig"]["defaults"]["unit"]]
    top = max(map(largest, lines), default=0) * 1.05 or 1
    width, height = WIDTH - MARGIN - 14, HEIGHT - 84
    parts = []
    for part in range(4):
        y = 26 + height - part / 3 * height
        parts.append(f'<path d="M{MARGIN} {y:.1f}h{width}" stroke="#ddd"/>'
                     f'<text x="{MARGIN - 4}" y="{y + 4:.1f}" text-anchor="end" fill="#777">{factor * top * part / 3:.3g}{unit}</text>')
    for index, (name, values) in enumerate(lines):
        colour = OWN.get(name, COLOURS[index])
        points = " ".join(f"{MARGIN + at / RUN_SECONDS * width:.1f},{26 + height - value / top * height:.1f}"
                          for at, value in values if not math.isnan(value))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        x, y = MARGIN + index % 3 * width / 3, 44 + height + index // 3 * 14
        parts.append(f'<text x="{x:.1f}" y="{y}" fill="{colour}">{html.escape(name)}</text>')
    return "".join(parts)


def filled(query):
    return promql.filled(query.replace("$__rate_interval", RATE).replace("$__range", f"{RUN_SECONDS}s"))


def legend(text, labels):
    for label, value in labels.items():
        text = text.replace(f"{{{{{label}}}}}", value)
    return text
