"""Runs a gateway under load, and a Prometheus that scrapes it with the shipped configuration and rules."""

import http.client
import json
import os
import pathlib
import re
import time
import urllib.parse

import dashboard
import promql
from load import HOST, MANY, Load
from processes import Running, free_port
from rules import PROMETHEUS, RULE_FILES, alerts, records
from tls import Secure

SITE = pathlib.Path(__file__).resolve().parent / "site"
TOKEN = "a-token-for-this-run-alone"
SCRAPE_SECONDS = 0.5
ANSWER_SECONDS_MAX = 30
ROUNDS = 8


class Site:
    """Demo upstream, gateway and Prometheus, for the duration of the block, which begins after some load."""

    def __init__(self, binary, directory):
        self.binary, self.directory = binary, directory
        self.ports = {name: free_port() for name in ("DATA", "BALANCED", "TLS", "ADMIN", "UPSTREAM", "UNTRUSTED", "PAGES", "PROMETHEUS")}
        self.servers = []
        self.secure = Secure(self.ports["TLS"], self.ports["DATA"], directory, HOST)
        self.loaded = Load(self.ports["DATA"], self.ports["BALANCED"], self.secure)

    def __enter__(self):
        try:
            self.start()
            self.load()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for server in reversed(self.servers):
            server.__exit__()

    def start(self):
        self.token = self.directory / "token"
        self.token.write_text(TOKEN)
        self.secure.make_certificate()
        self.mounted = Mounted(self.directory / "mounted")
        self.mounted.put({"crossgate.yaml": self.config(max_age="5m")})
        for name in ("scripts", "tenants.d"):
            (self.directory / name).mkdir()
            (self.mounted.path / name).symlink_to(self.directory / name)
        for script in (SITE / "scripts").iterdir():
            (self.directory / "scripts" / script.name).write_text(script.read_text())
        at = lambda name: f"127.0.0.1:{self.ports[name]}"
        self.run("demo", "UPSTREAM", [self.binary.path, "demo-upstream", "--listen", at("UPSTREAM"), "--pages", at("PAGES")])
        self.run("untrusted", "UNTRUSTED", ["openssl", "s_server", "-accept", at("UNTRUSTED"), "-www", "-quiet",
                                            "-cert", self.secure.certificate, "-key", self.secure.key])
        self.run("gateway", "DATA", [self.binary.path, "run", "--config", self.mounted.path / "crossgate.yaml"])
        self.run("prometheus", "PROMETHEUS", ["prometheus", f"--config.file={self.scraping()}", f"--web.listen-address={at('PROMETHEUS')}",
                                              f"--storage.tsdb.path={self.directory / 'tsdb'}", "--log.level=warn"])

    def run(self, name, port, command):
        server = Running(name, [str(part) for part in command], self.ports[port], self.directory / f"{name}.log")
        self.servers.append(server)
        server.__enter__()

    def config(self, max_age):
        text = (SITE / "crossgate.yaml").read_text()
        filled = {**self.ports, "TOKEN": self.token, "MAX_AGE": max_age,
                  "CERTIFICATE": self.secure.certificate, "KEY": self.secure.key,
                  "MANY": ", ".join(f'"https://o{number}.example"' for number in range(MANY))}
        return re.sub(r"\$([A-Z_]+)\b", lambda match: str(filled[match.group(1)]), text)

    def scraping(self):
        """The shipped configuration with other intervals, token file and address."""
        text = (PROMETHEUS / "prometheus.yml").read_text()
        text = re.sub(r"_interval: \S+", f"_interval: {int(1000 * SCRAPE_SECONDS)}ms", text)
        text = re.sub(r"credentials_file: \S+", f"credentials_file: {self.token}", text)
        text = re.sub(r"targets: \[.*\]", f"targets: ['127.0.0.1:{self.ports['ADMIN']}']", text)
        for file in RULE_FILES:
            text = text.replace(f"- {file}", f"- {PROMETHEUS / file}")
        path = self.directory / "prometheus.yml"
        path.write_text(text)
        return path

    def load(self):
        """Sends rounds of requests, with a scrape between them so that counters grow."""
        until("Prometheus is ready", lambda: http_ask(self.ports["PROMETHEUS"], "GET", "/-/ready")[0] == 200)
        until("the first scrape", lambda: self.query('up{job="crossgate"} == 1'))
        self.loaded.many_origins()
        self.loaded.many_paths()
        for number in range(ROUNDS):
            self.loaded.round(number)
            self.let_scrape()
            if number == 0:
                self.loaded.slow_ones()
            if number == 1:
                self.change()

    def let_scrape(self):
        seen = "count_over_time(up[1h])"
        (before,) = self.values(seen)
        until("another scrape", lambda: self.values(seen) > [before])

    def change(self):
        """Reloads with every result: a swapped ConfigMap, a broken tenants file and script, and a broken main file."""
        self.mounted.put({"crossgate.yaml": self.config(max_age="10m")})
        until("a swapped directory is live", lambda: self.status()["generation"] == 2)
        broken = [self.directory / "tenants.d" / "broken.yaml", self.directory / "scripts" / "broken.rhai"]
        for file in broken:
            file.write_text("nonsense: [")
        expect("a reload of broken files", self.admin("POST", "/reload")[0], 200)
        for file in broken:
            file.unlink()
        self.mounted.put({"crossgate.yaml": "version: 2\n"})
        expect("a reload of a broken main file", self.admin("POST", "/reload")[0], 422)
        self.mounted.put({"crossgate.yaml": self.config(max_age="10m")})
        expect("a reload of good files", self.admin("POST", "/reload")[0], 200)

    def admin(self, method, path):
        status, body = http_ask(self.ports["ADMIN"], method, path, {"Authorization": f"Bearer {TOKEN}"})
        return status, body

    def status(self):
        return json.loads(self.admin("GET", "/status")[1])

    def denied(self):
        """The body of a denied request."""
        _, body = http_ask(self.ports["DATA"], "GET", "/orders", {"Host": HOST, "Origin": "https://evil.example"})
        return body

    def families(self):
        return set(re.findall(r"^# TYPE (\w+)", self.admin("GET", "/metrics")[1], re.MULTILINE))

    def query(self, query):
        """The labels of each series in the result of a query."""
        return [series["metric"] for series in self.ask_prometheus("query", query=query)]

    def values(self, query):
        return [float(series["value"][1]) for series in self.ask_prometheus("query", query=query)]

    def ask_prometheus(self, endpoint, **parameters):
        _, body = http_ask(self.ports["PROMETHEUS"], "GET", f"/api/v1/{endpoint}?{urllib.parse.urlencode(parameters)}")
        answer = json.loads(body)
        if answer["status"] != "success":
            raise AssertionError(f"Prometheus refuses {parameters}: {answer['error']}")
        return answer["data"]["result"]


class Mounted:
    """A directory like a mounted ConfigMap: its files are links through one link, which is swapped."""

    def __init__(self, path):
        self.path, self.version = path, 0
        path.mkdir()

    def put(self, files):
        self.version += 1
        version = self.path / f"..{self.version}"
        version.mkdir()
        for name, text in files.items():
            (version / name).write_text(text)
        link = self.path / "..data_tmp"
        link.symlink_to(version.name)
        os.replace(link, self.path / "..data")
        for name in files:
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(f"..data/{name}")


def query_faults(site):
    """Queries of the dashboard and of recording rules must find something. For alerts, each of their series must exist."""
    questions = [(where, promql.filled(query), labels) for where, query, labels in dashboard.queries(dashboard.read())]
    questions += [(f"rule {rule['record']}", rule["expr"], []) for rule in records()]
    questions += [(f"alert {rule['alert']}", selector, []) for rule in alerts() for selector in promql.series(rule["expr"])]
    # Each side of a|b separately, because one side would hide a misspelt other side.
    questions += [(where, one, []) for where, query, _ in questions for selector in promql.series(query)
                  for one in promql.alternatives(selector)]
    found, waiting = [], list(dict.fromkeys((where, query, tuple(labels)) for where, query, labels in questions))
    end = time.monotonic() + ANSWER_SECONDS_MAX
    while waiting and time.monotonic() < end:
        answers = [(question, site.query(question[1])) for question in waiting]
        found += [fault for question, series in answers if series for fault in label_faults(site, *question, series)]
        waiting = [question for question, series in answers if not series]
        time.sleep(SCRAPE_SECONDS if waiting else 0)
    found += [f"{where}: {query} finds nothing" for where, query, _ in waiting]
    return found + [fault for rule in alerts() for fault in annotation_faults(site, rule)]


def label_faults(site, where, query, shown, series):
    """Labels that are matched, grouped by or shown must exist: Prometheus does not report a grouping by an unknown label."""
    known = {}
    for selector in promql.series(query):
        name = promql.name(selector)
        known[name] = {label for one in site.query(f"{name}") for label in one}
        for label in promql.matcher_labels(selector):
            if label not in known[name]:
                yield f"{where}: {name} has no label {label}, only {sorted(known[name])}"
    every = set().union(*known.values()) if known else set()
    for label in promql.grouping_labels(query):
        if label not in every:
            yield f"{where}: groups by {label}, which none of its series has"
    for label in shown:
        if not any(label in one for one in series):
            yield f"{where}: shows the label {label}, which its result lacks"


def annotation_faults(site, rule):
    named = {label for text in rule["annotations"].values() for label in re.findall(r"\$labels\.(\w+)", text)}
    groups = promql.grouping_labels(rule["expr"])
    selectors = promql.series(rule["expr"])
    every = {label for selector in selectors for one in site.query(promql.name(selector)) for label in one}
    for label in sorted(named - every):
        yield f"alert {rule['alert']} shows the label {label}, which none of its series has"
    for label in groups:
        if label not in every:
            yield f"alert {rule['alert']} groups by {label}, which none of its series has"


def http_ask(port, method, path, fields=None):
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    client.request(method, path, headers=fields or {})
    answer = client.getresponse()
    body = answer.read().decode()
    client.close()
    return answer.status, body


def until(what, holds):
    end = time.monotonic() + ANSWER_SECONDS_MAX
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {ANSWER_SECONDS_MAX} s")
        time.sleep(0.05)


def expect(what, got, wanted):
    if got != wanted:
        raise AssertionError(f"{what}: {got}, expected {wanted}")
