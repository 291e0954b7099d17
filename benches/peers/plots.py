"""The plots next to the tables: bar charts as SVG, with text as text."""

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot

from report import TITLES

# Colours that differ in grey and for most readers with colour blindness (Okabe and Ito).
COLOURS = {"crossgate": "#d55e00", "bare pingora": "#999999", "nginx": "#009e73", "haproxy": "#0072b2", "envoy": "#cc79a7"}
# Settings that give the same file for the same figures.
SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "crossgate", "font.family": "sans-serif", "axes.spines.top": False,
            "axes.spines.right": False, "axes.axisbelow": True}
WIDTH_OF_GROUP = 0.84


def draw(directory, results):
    plain = [(kind, setup) for kind, setup in results.workloads if setup.is_plain()]
    small = [(kind, setup) for kind, setup in plain if (setup.origins, setup.tenants) == (1, 1) and setup.kind == "exact"]
    preflights = [(kind, setup) for kind, setup in plain if kind == "preflight"]
    kind_label = lambda kind, _: TITLES[kind].replace(", ", ",\n")
    setup_label = lambda _, setup: setup.title().replace(", ", ",\n")
    with pyplot.rc_context(SETTINGS):
        cost = "CPU time per request, microseconds"
        bars(directory / "peers-cost.svg", results, small, kind_label, cost, f"{cost}: system (pale) and user", ("system_us", "user_us"))
        bars(directory / "peers-scale.svg", results, preflights, setup_label, cost, "CPU time per allowed preflight, by size of the configuration",
             ("cpu_us",))
        bars(directory / "peers-rate.svg", results, small, kind_label, "requests per second", "Requests per second on one CPU", ("rate",))


def bars(path, results, workloads, label, axis, title, parts):
    """Draws a group for each workload and a bar for each engine, with stacked parts."""
    measured = {name for of, title, name in results.medians if any((of, title) == (kind, setup.title()) for kind, setup in workloads)}
    names = [name for name in results.names if name in measured]
    if not names:
        # A run of some workloads only.
        return
    figure, axes = pyplot.subplots(figsize=(max(8, 1.7 * len(workloads)), 4.5))
    width = WIDTH_OF_GROUP / len(names)
    for index, name in enumerate(names):
        keys = [(kind, setup.title(), name) for kind, setup in workloads]
        offset = (index - (len(names) - 1) / 2) * width
        stack(axes, [group + offset for group in range(len(workloads))], width, [results.medians.get(key) for key in keys], name, parts)
    axes.set_xticks(range(len(workloads)), [label(kind, setup) for kind, setup in workloads])
    axes.set_ylabel(axis)
    axes.set_title(title)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False, ncols=len(names), loc="upper center", bbox_to_anchor=(0.5, -0.18))
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)


def stack(axes, places, width, medians, name, parts):
    shown = [(place, median) for place, median in zip(places, medians) if median]
    floor = [0.0] * len(shown)
    for part in parts:
        heights = [median[part] for _, median in shown]
        is_last = part == parts[-1]
        axes.bar([place for place, _ in shown], heights, width * 0.92, bottom=floor if len(parts) > 1 else None, color=COLOURS[name],
                 alpha=1 if is_last else 0.45, label=name if is_last else None)
        floor = [low + height for low, height in zip(floor, heights)]
