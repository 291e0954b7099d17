"""Finds the series, matchers and grouping labels of PromQL queries.

Prometheus checks that queries are valid. Series are distinguished from functions by their names.
"""

import re

SERIES = re.compile(r"(?<![\w:.])((?:crossgate|process)_\w+|up|\w+:[\w:]+)(?![\w:(])(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
# Values for Grafana's variables: all series, over a time shorter than the run.
VARIABLES = {"$__rate_interval": "1m", "$__interval": "1m", "$__range": "5m", "$job": ".*", "$tenant": ".*"}


def series(query):
    """Each series with its matchers, as a query."""
    return [match.group(0) for match in SERIES.finditer(without_groupings(query))]


def name(selector):
    return selector.split("{")[0]


def alternatives(selector):
    """For `=~"a|b"` or `!~"a|b"`, the selectors with `="a"` and `="b"`: excluded values must exist too."""
    for label, operator, values in re.findall(r'(\w+)(=~|!~)"(\w+(?:\|\w+)+)"', selector):
        for value in values.split("|"):
            yield selector.replace(f'{label}{operator}"{values}"', f'{label}="{value}"')


def matcher_labels(selector):
    return MATCHER.findall(selector)


def grouping_labels(query):
    return [label.strip() for labels in GROUPING.findall(query) for label in labels.split(",") if label.strip()]


def without_groupings(query):
    return GROUPING.sub(" ", query)


def filled(query):
    """A query of the dashboard with values for its variables."""
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    return query
