"""Metrics, commands, options, configuration keys and endpoints that ops/ and docs/ name must exist in the gateway. Every metric of the
gateway must be used by a panel or a rule, and every endpoint described in the reference."""

import json
import re

from paths import DOCS, OPS, other_pages, texts
from rules import records

SERIES = re.compile(r"(?<![\w:/.-])(?:crossgate_\w+|(?:job|job_\w+):crossgate\w*:\w+)")
COMMAND = re.compile(r"(?<![\w/-])(?:\S*/)?crossgate ([a-z][a-z-]*)([^`|&;\n]*)")
LIST_COMMAND = re.compile(r"(?:args:|CMD) \[([^\]]+)\]")
# `limits.rules.time`, or a single key, which only its form shows to be one.
KEY = re.compile(r"(?<![\w./$\\-])([a-z]+[A-Za-z]*(?:\.[a-z][A-Za-z]+)+|[a-z]+[A-Z][A-Za-z]*)(?![\w./(-])")
# Keys of Kubernetes that pages name.
OTHER_KEYS = {"defaultMode", "terminationGracePeriodSeconds"}
# File and host names such as `alerts.yml` and `app.example` have the form of a key.
NAME_SUFFIXES = {"yaml", "yml", "json", "md", "conf", "crt", "key", "pem", "rhai", "service", "log", "com", "example", "internal"}
ENDPOINT = re.compile(r"(?:(?<=\$admin)|(?<=path: )|(?<=[`\s(]))/([a-z]+)(?![\w/.:-])")


def faults(site):
    binary = site.binary
    families, fields = site.families(), answer_fields(site)
    found = []
    for path, text in texts():
        spans = "\n".join(code_spans(path, text))
        found += metric_faults(path, text, families) + all_command_faults(binary, path, spans)
        found += [f"{path} names the unknown key {key}" for key in sorted(keys(path, text)) if not is_key(binary, fields, key)]
        endpoints = sorted(set(ENDPOINT.findall(endpoint_text(path, spans))))
        unknown = [name for name in endpoints if site.admin("GET", f"/{name}")[0] == 404]
        found += [f"{path} names the unknown endpoint /{name}" for name in unknown]
    for path, text in other_pages():
        found += metric_faults(path, text, families) + all_command_faults(binary, path, "\n".join(code_spans(path, text)))
    return found + unused_metrics(families) + missing_endpoints(site)


def metric_faults(path, text, families):
    return [f"{path} names the unknown metric {name}" for name in sorted(set(SERIES.findall(text))) if not is_metric(name, families)]


def all_command_faults(binary, path, spans):
    return [f"{path}: {fault}" for command, rest in commands(spans) for fault in command_faults(binary, command, rest)]


def unused_metrics(families):
    own = {family for family in families if family.startswith("crossgate_")}
    used = "".join((OPS / file).read_text() for file in ("grafana/crossgate.json", "prometheus/alerts.yml", "prometheus/recording.yml"))
    return [f"no panel and no rule uses {family}" for family in sorted(own) if not re.search(rf"{family}(?:_bucket|_count)?\b", used)]


def missing_endpoints(site):
    """The answer to an unknown path lists all endpoints."""
    listed = re.findall(r"/[a-z-]*", json.loads(site.admin("GET", "/unknown")[1])["error"])
    page = (DOCS / "reference" / "admin-api.md").read_text()
    return [f"admin-api.md does not describe {endpoint}" for endpoint in listed if f"| [`{endpoint}`](" not in page]


def code_spans(path, text):
    """The text of code: in pages and in the prose of rules the text in backticks and fences, in other files all of it."""
    if path.suffix in (".md", ".yml", ".json"):
        text = re.sub(r"\\\n\s*", " ", text)
        fences = [commands_of(kind, body) for kind, body in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)]
        return fences + re.findall(r"(?<!`)`([^`]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [text]


def commands_of(kind, body):
    """The code of a fence, in a console without its output."""
    return body if kind != "console" else "\n".join(line for line in body.splitlines() if line.startswith(("$ ", "# ")))


def is_metric(name, families):
    if ":" in name:
        return name in {rule["record"] for rule in records()}
    return name in families or re.sub(r"_(bucket|sum|count)$", "", name) in families


def commands(text):
    yield from COMMAND.findall(text)
    for listed in LIST_COMMAND.findall(text):
        command, *rest = [part.strip(' "') for part in listed.split(",")]
        yield command, " ".join(rest)


def command_faults(binary, command, rest):
    if command not in binary.commands:
        return [f"unknown command `crossgate {command}`: expected one of {sorted(binary.commands)}"]
    options = re.findall(r"(?<!\S)--[a-z][a-z-]*", rest)
    return [f"`crossgate {command}` has no option {option}" for option in options if option not in binary.commands[command]]


def keys(path, text):
    """Keys of the gateway's configuration. Manifests mostly have other keys, and the gateway checks the ConfigMap."""
    if path.suffix == ".md":
        spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
        # The manual of rules describes what a script can read.
        found = {key for span in spans for key in KEY.findall(span) if not key.startswith("req.")}
        return {key for key in found if key.rsplit(".", 1)[-1] not in NAME_SUFFIXES}
    if path.suffix in (".yml", ".json"):
        return {key for key in KEY.findall(text) if "." in key and key.split(".")[0] in ("limits", "shutdown", "admin", "accessLog")}
    return set(re.findall(r"(?<![\w./-])(?:limits|shutdown|admin|accessLog|runtime)(?:\.[a-z][A-Za-z]+)+", text))


def is_key(binary, fields, key):
    """A key of the configuration, a field of an answer, or a known key of another program."""
    return binary.has_key(key) or key.rsplit(".", 1)[-1] in fields | OTHER_KEYS


def answer_fields(site):
    """The names of all fields in answers of the admin listener, and in the body of a denial."""
    denial = site.denied()
    queries = ("/status", "/origins", f"/explain?request-id={json.loads(denial)['requestId']}")
    return set(re.findall(r'"(\w+)":', denial + "".join(site.admin("GET", query)[1] for query in queries)))


def endpoint_text(path, spans):
    """Paths in the Containerfile, in the demo script and in pages about requests are not endpoints."""
    is_about_requests = path.parent.name == "reference" and path.name != "admin-api.md"
    return "" if path.name == "Containerfile" or path.suffix == ".sh" or is_about_requests else spans
