"""One request of a kind, looked at closely, so that nothing is measured that is not what it says.

Preflights must be answered without the upstream, with what the policy allows; the others must come back from the upstream, whole.
"""

import http.client
import re
import sys

import engines
from engines import HEADERS, METHODS

BODY_LEN = 1024
LARGE_LEN = 65_536
PREFLIGHTS = ("preflight", "denied")


def check(engine, kind, setup):
    """The first and the last of what is configured, since a table may be cut off."""
    names, hosts = setup.names(), setup.hosts()
    for name, host in {(names[0], hosts[0]), (names[-1], hosts[-1])}:
        origin = f"https://{'r.' if setup.kind == 'wildcard' else ''}{name}"
        check_answer(engine, kind, setup, host, "https://stranger.example" if kind == "denied" else origin)
    if kind == "preflight" and setup.kind == "wildcard":
        check_answer(engine, "denied", setup, hosts[0], f"https://{names[0]}")
        check_answer(engine, "denied", setup, hosts[0], f"https://not{names[0]}")


def check_answer(engine, kind, setup, host, origin):
    status, headers, body = ask(engine.port, kind, host, origin)
    wrong = [what for what, holds in expected(engine, kind, origin, status, headers, body).items() if not holds]
    if wrong:
        sys.exit(f"{engine.name}, {kind}, {setup.title()}, {host}, {origin}: wrong in {', '.join(wrong)}: {status} {headers}")


def ask(port, kind, host, origin):
    """Status, fields by lower-case name, and body. Every field is written here: the client would add its own."""
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
    """What must hold, by name."""
    field = lambda name: headers.get(name, "")
    parts = {}
    if kind == "denied":
        # Envoy has no status for it: it answers 200 with all but the origin, and a browser refuses that as well.
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
    """Connections and requests that the upstream has seen, this request included."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    client.request("GET", "/status", headers={"Connection": "close"})
    accepted, _, requests = map(int, re.search(r"\n\s*(\d+) (\d+) (\d+)", client.getresponse().read().decode()).groups())
    client.close()
    return accepted, requests


def check_upstream(name, kind, before, after, requests, connections_max):
    """Preflights never reach it; everything else does, over connections that are kept."""
    # The look itself is one connection and one request.
    accepted, seen = after[0] - before[0] - 1, after[1] - before[1] - 1
    if kind in PREFLIGHTS and seen:
        sys.exit(f"{name}: {seen} requests reached the upstream during {kind}")
    if kind not in PREFLIGHTS and (seen < requests or accepted > connections_max):
        sys.exit(f"{name}: the upstream saw {seen} of {requests} requests over {accepted} new connections during {kind}")
