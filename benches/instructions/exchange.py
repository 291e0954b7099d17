#!/usr/bin/env python3
"""Counts the instructions of proxied exchanges in the real gateway: exchange.py CROSSGATE COUNTS.

The gateway runs under callgrind, between a client and an upstream in this process, over one kept connection on each side. The counts are
of the gateway's process without the kernel, divided by the number of requests, and written to COUNTS as a JSON object. They are of the
build that the tests use: an optimised build of Pingora takes longer than all tests. So they show growth, and no cost.
"""

import json
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time

# The task of a client's connection. What the runtime does between its turns depends on other tasks.
COLLECTED = "*Lane<*ServerApp>::process_new::{{closure}}"
WARM_UP_REQUESTS = 30
REQUESTS = 200
CONFIG = """
version: 1
listeners: [{ address: "127.0.0.1:PORT" }]
runtime: { threads: 1 }
accessLog: { level: "Off" }
limits: { keepAliveRequests: 1000000 }
upstreams: { api: { servers: ["127.0.0.1:UPSTREAM"] } }
policies: { spa: { allowOrigins: ["https://app.example"], allowCredentials: true } }
tenants: [{ id: acme, hosts: [api.example], upstream: api, policy: spa }]
"""
FIELDS = "Host: api.example\r\nOrigin: https://app.example\r\nAccept: */*\r\nAccept-Language: en\r\nUser-Agent: Mozilla/5.0\r\n"
REQUESTS_BY_NAME = {
    "exchange::get": f"GET /orders HTTP/1.1\r\n{FIELDS}\r\n",
    "exchange::post_1_kib": f"POST /orders HTTP/1.1\r\n{FIELDS}Content-Length: 1024\r\n\r\n{'x' * 1024}",
}
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nVary: Accept-Encoding\r\nContent-Length: 2\r\n\r\n{}"


def main():
    binary, counts = sys.argv[1:]
    upstream = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, args=(upstream,), daemon=True).start()
    with tempfile.TemporaryDirectory(prefix="exchange-") as directory:
        directory = pathlib.Path(directory)
        port = free_port()
        config = directory / "crossgate.yaml"
        config.write_text(CONFIG.replace("PORT", str(port)).replace("UPSTREAM", str(upstream.getsockname()[1])))
        profile = directory / "callgrind"
        valgrind = ["valgrind", "--quiet", "--tool=callgrind", f"--toggle-collect={COLLECTED}", f"--callgrind-out-file={profile}"]
        gateway = subprocess.Popen([*valgrind, binary, "run", str(config)], stderr=subprocess.DEVNULL)
        try:
            with connect(port) as connection:
                found = {}
                for nth, (name, request) in enumerate(REQUESTS_BY_NAME.items()):
                    ask(connection, request, WARM_UP_REQUESTS)
                    control("--zero", gateway.pid)
                    ask(connection, request, REQUESTS)
                    control("--dump", gateway.pid)
                    found[name] = round(total(directory / f"callgrind.{nth + 1}") / REQUESTS, 1)
        finally:
            gateway.kill()
            gateway.wait()
    pathlib.Path(counts).write_text(json.dumps(found, indent=2) + "\n")


def serve(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def answer(connection):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    received = b""
    while piece := connection.recv(65_536):
        received += piece
        head, end, body = received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        if end and len(body) >= int(length.group(1) if length else 0):
            received = b""
            connection.sendall(RESPONSE)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def connect(port):
    deadline = time.monotonic() + 120
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=60)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
        except OSError:
            if time.monotonic() > deadline:
                sys.exit("exchange: the gateway does not listen")
            time.sleep(0.2)


def ask(connection, request, times):
    for _ in range(times):
        connection.sendall(request.encode())
        response = b""
        while not response.endswith(b"\r\n\r\n{}"):
            piece = connection.recv(65_536)
            if not piece:
                sys.exit(f"exchange: the gateway closed the connection after {response!r}")
            response += piece
        if not response.startswith(b"HTTP/1.1 200 "):
            sys.exit(f"exchange: expected 200, got {response!r}")


def control(what, pid):
    subprocess.run(["callgrind_control", what, str(pid)], capture_output=True, check=True)


def total(profile):
    return int(re.search(r"^(?:totals|summary): (\d+)", profile.read_text(errors="replace"), re.MULTILINE).group(1))


if __name__ == "__main__":
    main()
