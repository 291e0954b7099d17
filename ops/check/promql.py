"""As much of PromQL as it takes to see what a query names: its series, their matchers, and the labels it groups by.

Prometheus itself says whether a query is one; this looks at queries that it took. Series are told from functions by their names.
"""

import re

SERIES = re.compile(r"(?<![\w:.])((?:crossgate|process)_\w+|up|\w+:[\w:]+)(?![\w:(])(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
# What Grafana puts in the place of its variables: everything, over a time that the run surely fills.
VARIABLES = {"$__rate_interval": "1m", "$__interval": "1m", "$__range": "5m", "$job": ".*", "$tenant": ".*"}


def series(query):
    """Each series with its matchers, as text that is a query by itself."""
    return [match.group(0) for match in SERIES.finditer(without_groupings(query))]


def name(selector):
    return selector.split("{")[0]


def alternatives(selector):
    """For `=~"a|b"`, the selector with `="a"` and the one with `="b"`; for `!~` too, since what is left out has to be there."""
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
    """A dashboard's query with its variables filled in."""
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    return query
