"""Whatever ops/ names of the gateway has to exist in it: metrics, commands, options, configuration keys and endpoints. And whatever the gateway
counts has to be told in the README, and asked for by a panel or a rule."""

import json
import re

from paths import OPS, ROOT, texts
from rules import records

SERIES = re.compile(r"(?<![\w:/.-])(?:crossgate_\w+|(?:job|job_\w+):crossgate\w*:\w+)")
COMMAND = re.compile(r"(?<![\w/-])(?:\S*/)?crossgate ([a-z][a-z-]*)([^`|&;\n]*)")
LIST_COMMAND = re.compile(r"(?:args:|CMD) \[([^\]]+)\]")
# `limits.rules.time`, or a key by itself where only its form shows that it is one.
KEY = re.compile(r"(?<![\w./$-])([a-z]+[A-Za-z]*(?:\.[a-z][A-Za-z]+)+|[a-z]+[A-Z][A-Za-z]*)(?![\w./(-])")
ENDPOINT = re.compile(r"(?:(?<=\$admin)|(?<=path: )|(?<=[`\s(]))/([a-z]+)(?![\w/.-])")


def faults(site):
    binary = site.binary
    families = site.families()
    found = []
    for path, text in texts():
        spans = "\n".join(spoken(path, text))
        named = sorted(set(SERIES.findall(text)))
        found += [f"{path} names the metric {name}, which is none" for name in named if not is_metric(name, families)]
        for command, rest in commands(spans):
            found += [f"{path}: {fault}" for fault in command_faults(binary, command, rest)]
        found += [f"{path} names the key {key}, which is none" for key in sorted(keys(path, text)) if not is_key(binary, site, key)]
        endpoints = sorted(set(ENDPOINT.findall(endpoint_text(path, spans))))
        unknown = [name for name in endpoints if site.admin("GET", f"/{name}")[0] == 404]
        found += [f"{path} names the endpoint /{name}, which is none" for name in unknown]
    return found + forgotten(families)


def forgotten(families):
    own = {family for family in families if family.startswith("crossgate_")}
    told = " ".join(braces_filled((ROOT / "README.md").read_text()))
    asked = "".join((OPS / file).read_text() for file in ("grafana/crossgate.json", "prometheus/alerts.yml", "prometheus/recording.yml"))
    return ([f"README.md does not tell of {family}" for family in sorted(own - set(SERIES.findall(told)))]
            + [f"no panel and no rule asks for {family}" for family in sorted(own) if not re.search(rf"{family}(?:_bucket|_count)?\b", asked)])


def braces_filled(text):
    """`crossgate_a_{b,c}_total` as the names that it stands for."""
    for before, choices, after in re.findall(r"(crossgate_\w*)(?:\{([\w,]+)\}(\w*))?", text):
        # Without something before or after, braces hold labels.
        inner = choices.split(",") if choices and (after or before.endswith("_")) else [""]
        yield from (before + choice + after for choice in inner)


def spoken(path, text):
    """The parts that are meant to be typed or read by machines: of pages and of the prose in rules what stands in backticks and fences."""
    if path.suffix in (".md", ".yml", ".json"):
        text = re.sub(r"\\\n\s*", " ", text)
        fences = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
        return fences + re.findall(r"(?<!`)`([^`]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [text]


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
        return [f"there is no command `crossgate {command}`, only {sorted(binary.commands)}"]
    options = re.findall(r"(?<!\S)--[a-z][a-z-]*", rest)
    return [f"`crossgate {command}` has no option {option}" for option in options if option not in binary.commands[command]]


def keys(path, text):
    """In pages and rules; manifests hold keys of their own makers, and the ConfigMap is checked by the gateway."""
    if path.suffix == ".md":
        spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
        # What a script sees is told in its own manual.
        return {key for span in spans for key in KEY.findall(span) if not key.startswith("req.")}
    if path.suffix in (".yml", ".json"):
        return {key for key in KEY.findall(text) if "." in key and key.split(".")[0] in ("limits", "shutdown", "admin", "accessLog")}
    return set(re.findall(r"(?<![\w./-])(?:limits|shutdown|admin|accessLog|runtime)(?:\.[a-z][A-Za-z]+)+", text))


def is_key(binary, site, key):
    """A key of the configuration, or one of what /status tells."""
    return binary.has_key(key) or f'"{key.rsplit(".", 1)[-1]}"' in json.dumps(site.status())


def endpoint_text(path, spans):
    """Of the container and the demo the paths are others'."""
    return "" if path.name == "Containerfile" or path.suffix == ".sh" else spans
