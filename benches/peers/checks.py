"""Checks one request of each kind before a measurement, so that every figure is of the right answer.

Preflights must be answered without the upstream and with the values of the policy. All other answers must come whole from the upstream.
"""

import http.client
import re
import subprocess
import sys

import engines
from engines import HEADERS, METHODS, PREFLIGHTS

BODY_LEN = 1024
LARGE_LEN = 65_536


def check(engine, kind, setup):
    """Checks the first and the last configured origin and host, because a table may be truncated."""
    if setup.is_tls():
        return check_tls_answer(engine, kind, setup)
    names, hosts = setup.names(), setup.hosts()
    for name, host in {(names[0], hosts[0]), (names[-1], hosts[-1])}:
        origin = f"https://{'r.' if setup.kind == 'wildcard' else ''}{name}"
        check_answer(engine, kind, setup, host, "https://unlisted.example" if kind == "denied" else origin)
    if kind == "preflight" and setup.kind == "wildcard":
        check_answer(engine, "denied", setup, hosts[0], f"https://{names[0]}")
        check_answer(engine, "denied", setup, hosts[0], f"https://not{names[0]}")


def check_answer(engine, kind, setup, host, origin):
    status, headers, body = ask(engine.port, kind, host, origin)
    judge(engine, kind, setup, origin, status, headers, body)


def judge(engine, kind, setup, origin, status, headers, body):
    wrong = [what for what, holds in expected(engine, kind, origin, status, headers, body).items() if not holds]
    if wrong:
        sys.exit(f"{engine.name}, {kind}, {setup.title()}, {origin}: wrong {', '.join(wrong)}: {status} {headers}")


def check_tls_answer(engine, kind, setup):
    """By curl, which also speaks HTTP/2, with the one origin and host of such setups."""
    origin, version = f"https://{setup.names()[0]}", {"tls": "1.1", "h2": "2"}[setup.transport]
    asks = ["-X", "OPTIONS", "-HAccess-Control-Request-Method: PUT", f"-HAccess-Control-Request-Headers: {HEADERS}"]
    command = ["curl", "-s", "--max-time", "10", "-i", "-w", "\n%{http_version}", f"--http{version}", "--cacert", engine.certificate[0],
               "--resolve", f"api0.test:{engine.port}:127.0.0.1", "-HHost: api0.test", f"-HOrigin: {origin}", *(asks if kind in PREFLIGHTS else []),
               f"https://api0.test:{engine.port}/orders"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    text, _, spoken = done.stdout.rpartition("\n")
    if done.returncode or spoken != version:
        sys.exit(f"{engine.name}, {kind}, {setup.title()}: curl ended with {done.returncode} and HTTP/{spoken}, expected 0 and HTTP/{version}")
    head, _, body = text.partition("\n\n" if "\r\n\r\n" not in text else "\r\n\r\n")
    status_line, *lines = head.splitlines()
    fields = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name.lower(), []).append(value.strip())
    judge(engine, "preflight" if kind == "handshake" else kind, setup, origin, int(status_line.split()[1]),
          {name: ", ".join(values) for name, values in fields.items()}, body.encode())


def check_log(engine, setup, lines_min):
    """The log has a line for each request; buffered lines of the last moments may be missing."""
    if setup.has_log:
        path = engine.directory / "log" if engine.name == "haproxy" else engine.log
        lines = sum(1 for line in open(path, "rb") if line.startswith(b"{"))
        if lines < 0.9 * lines_min:
            sys.exit(f"{engine.name}, {setup.title()}: {lines} log lines, expected {lines_min}")


def ask(port, kind, host, origin):
    """The status, the fields by lower-case name, and the body. All fields are written here, because the client would add others."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    method = {"preflight": "OPTIONS", "denied": "OPTIONS", "post": "POST"}.get(kind, "GET")
    client.putrequest(method, "/64k" if kind == "64k" else "/orders", skip_host=True, skip_accept_encoding=True)
    client.putheader("Host", host)
    client.putheader("Origin", origin)
    if kind in PREFLIGHTS:
        client.putheader("Access-Control-Request-Method", "PUT")
        client.putheader("Access-Control-Request-Headers", HEADERS)
    if kind == "post":
        client.putheader("Content-Length", str(BODY_LEN))
    client.endheaders(b"x" * BODY_LEN if kind == "post" else None)
    answer = client.getresponse()
    fields = {}
    for name, value in answer.getheaders():
        fields.setdefault(name.lower(), []).append(value)
    body = answer.read()
    client.close()
    return answer.status, {name: ", ".join(values) for name, values in fields.items()}, body


def expected(engine, kind, origin, status, headers, body):
    """The conditions that must hold, by name."""
    field = lambda name: headers.get(name, "")
    parts = {}
    if kind == "denied":
        # Envoy answers 200 with all fields but the origin, which a browser refuses too.
        parts["status"] = status == engine.denied_status
        parts["no permission"] = "access-control-allow-origin" not in headers
    if kind == "preflight":
        parts["status"] = status in (200, 204)
        parts["methods"] = tokens(field("access-control-allow-methods")) == tokens(METHODS)
        parts["headers"] = tokens(field("access-control-allow-headers")) == tokens(HEADERS)
        parts["age"] = field("access-control-max-age") == "600"
    if kind != "denied" and engine.has_policy:
        parts["origin"] = field("access-control-allow-origin") == origin
        parts["credentials"] = field("access-control-allow-credentials") == "true"
    if kind in PREFLIGHTS:
        parts["answered here"] = "x-upstream" not in headers
    else:
        parts["status"] = status == 200
        parts["upstream"] = field("x-upstream") == ("64k" if kind == "64k" else "small")
        parts["body"] = body == b"x" * (LARGE_LEN if kind == "64k" else engines.SMALL_LEN)
        parts["keep-alive"] = field("connection").lower() != "close"
    if kind == "post":
        parts["sent body"] = field("x-received") == str(BODY_LEN)
    return parts


def tokens(value):
    return sorted(token.strip().lower() for token in value.split(","))


def upstream_counts(port):
    """The connections and requests of the upstream so far, including this request."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    client.request("GET", "/status", headers={"Connection": "close"})
    accepted, _, requests = map(int, re.search(r"\n\s*(\d+) (\d+) (\d+)", client.getresponse().read().decode()).groups())
    client.close()
    return accepted, requests


def check_upstream(name, kind, before, after, requests, connections_max):
    """Preflights must not reach the upstream. All other requests must reach it over kept connections."""
    # The status request itself is one connection and one request.
    accepted, seen = after[0] - before[0] - 1, after[1] - before[1] - 1
    if kind in PREFLIGHTS and seen:
        sys.exit(f"{name}: {seen} requests reached the upstream during {kind}")
    if kind not in PREFLIGHTS and (seen < requests or accepted > connections_max):
        sys.exit(f"{name}: {seen} of {requests} requests reached the upstream over {accepted} new connections during {kind}")
