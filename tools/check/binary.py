"""The commands of the built gateway, their options, and the keys of its configuration."""

import functools
import json
import re
import subprocess

import yaml


class Binary:
    def __init__(self, path):
        self.path = path

    def run(self, *arguments):
        """Runs the binary; returns exit code, output and error output."""
        done = subprocess.run([self.path, *arguments], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    @functools.cached_property
    def commands(self):
        """The options of each command."""
        listed = self.run("--help")[1].split("Commands:")[1].split("Options:")[0]
        commands = [command for command in re.findall(r"^  ([a-z-]+)", listed, re.MULTILINE) if command != "help"]
        return {command: set(re.findall(r"--[a-z][a-z-]*", self.run(command, "--help")[1])) for command in commands}

    @functools.cached_property
    def schema(self):
        return json.loads(self.run("schema")[1])

    @functools.cached_property
    def keys(self):
        """Every key of the configuration, with its schemas."""
        keys = {}
        for part in [self.schema, *self.schema["$defs"].values()]:
            for name, value in part.get("properties", {}).items():
                keys.setdefault(name, []).append(value)
        return keys

    def has_key(self, path):
        """Whether a path such as `limits.rules.time` or `rules.time` exists in the configuration."""
        first, *rest = path.split(".")
        return any(self.leads_on(schema, rest) for schema in self.keys.get(first, []))

    def leads_on(self, schema, rest):
        if not rest:
            return True
        target = schema.get("items", schema.get("additionalProperties", schema))
        target = self.schema["$defs"][target["$ref"].rsplit("/", 1)[1]] if "$ref" in target else target
        below = target.get("properties", {}).get(rest[0])
        return below is not None and self.leads_on(below, rest[1:])

    def check(self, main):
        """The findings of `crossgate check` in a main file, including warnings."""
        return self.run("check", str(main))[2].strip()


def read_yaml(path):
    return list(yaml.safe_load_all(path.read_text()))
