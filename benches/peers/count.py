#!/usr/bin/env python3
"""Counts the instructions and bus locks of a request in the processes of the gateway and of bare Pingora.

The real programs run under valgrind's callgrind. One connection sends some thousand requests one after the other, and the counts are
divided by their number. Unlike times, counts do not depend on other load on the machine. They contain only the processes, not the
kernel. With one connection, every request pays for a wake-up that many requests share under load. Instructions that lock the bus are
atomic instructions. By function, they show which functions write to memory that threads share.
"""

import argparse
import collections
import pathlib
import re
import socket
import subprocess
import sys
import tempfile

import engines
import processes
from engines import Setup
from processes import Running, free_port

WARM_UP_REQUESTS = 300
REQUESTS = 2_000
FIELDS = "Host: api0.test\r\nOrigin: {origin}\r\nAccept: */*\r\nAccept-Language: en\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n"
ASKS = "Access-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: authorization,content-type\r\n"
KINDS = {
    "preflight, allowed": ("OPTIONS", "https://o0.example", ASKS),
    "preflight, denied": ("OPTIONS", "https://unlisted.example", ASKS),
    "GET, proxied": ("GET", "https://o0.example", ""),
}
FUNCTION = re.compile(r"c?fn=\((\d+)\)(?: (.*))?")


def main():
    arguments = parse()
    processes.end_on_signals()
    engines.Crossgate.binary, engines.Pingora.binary = str(arguments.crossgate), str(arguments.pingora)
    with tempfile.TemporaryDirectory(prefix="count-") as directory:
        directory = pathlib.Path(directory)
        certificate = engines.make_certificate(directory)
        ports = free_port(), free_port()
        addresses = [f"127.0.0.1:{port}" for port in ports]
        upstream = engines.Upstream(directory / "upstream", ports[0], addresses, certificate)
        with Running(upstream.name, upstream.command(Setup()), upstream.port, directory / "upstream.log"):
            counted = {}
            for engine in (engines.Crossgate, engines.Pingora):
                kinds = KINDS if engine is engines.Crossgate else ["GET, proxied"]
                for kind in kinds:
                    made = engine(directory / "engine", free_port(), addresses, certificate)
                    counted[engine.name, kind] = count(made, kind, directory)
    print_counts(counted, arguments.functions)


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crossgate", required=True, type=pathlib.Path, help="the built gateway")
    parser.add_argument("--pingora", required=True, type=pathlib.Path, help="the built bare Pingora proxy")
    parser.add_argument("--functions", type=int, default=0, help="the number of functions to print per request; default: 0")
    return parser.parse_args()


def count(engine, kind, directory):
    """The instructions and bus locks of one request, by function."""
    profile = directory / "callgrind"
    for old in directory.glob("callgrind*"):
        old.unlink()
    command = ["valgrind", "--tool=callgrind", "--collect-bus=yes", f"--callgrind-out-file={profile}", *engine.command(Setup())]
    with Running(engine.name, command, engine.port, directory / "log") as pid:
        with socket.create_connection(("127.0.0.1", engine.port)) as connection:
            send(connection, kind, WARM_UP_REQUESTS)
            control("--zero", pid)
            send(connection, kind, REQUESTS)
            control("--dump", pid)
    return read(profile.with_name("callgrind.1"))


def send(connection, kind, requests):
    method, origin, asks = KINDS[kind]
    request = f"{method} /orders HTTP/1.1\r\n{FIELDS.format(origin=origin)}{asks}\r\n".encode()
    for _ in range(requests):
        connection.sendall(request)
        head = b""
        while b"\r\n\r\n" not in head:
            head += receive(connection)
        head, body = head.split(b"\r\n\r\n", 1)
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        while length and len(body) < int(length.group(1)):
            body += receive(connection)


def receive(connection):
    piece = connection.recv(65_536)
    if not piece:
        sys.exit("the server closed the connection")
    return piece


def control(what, pid):
    subprocess.run(["callgrind_control", what, str(pid)], capture_output=True, check=True)


def read(profile):
    """Adds up the own costs of each function, without the costs of its calls, which callgrind writes too."""
    names, costs, function, is_call = {}, collections.defaultdict(lambda: [0, 0]), None, False
    for line in profile.read_text(errors="replace").splitlines():
        if named := FUNCTION.match(line):
            names.setdefault(named.group(1), named.group(2))
            function = named.group(1) if line.startswith("fn=") else function
        elif line.startswith("calls="):
            is_call = True
        elif line[:1].isdigit() or line[:1] in "+-*" and line:
            for index, cost in enumerate([] if is_call else line.split()[1:3]):
                costs[function][index] += int(cost)
            is_call = False
    total = collections.defaultdict(lambda: [0.0, 0.0])
    for function, (instructions, locks) in costs.items():
        total[names[function]][0] += instructions / REQUESTS
        total[names[function]][1] += locks / REQUESTS
    return total


def print_counts(counted, functions):
    print("| request | server | instructions | bus locks |\n|---|---|---|---|")
    for (engine, kind), costs in counted.items():
        instructions, locks = (sum(cost[index] for cost in costs.values()) for index in (0, 1))
        print(f"| {kind} | {engine} | {instructions:,.0f} | {locks:.0f} |")
    for (engine, kind), costs in counted.items() if functions else ():
        for index, title in enumerate(("instructions", "bus locks")):
            print(f"\n{kind}, {engine}, by {title}:")
            for name, cost in sorted(costs.items(), key=lambda item: -item[1][index])[:functions]:
                print(f"{cost[index]:10.1f} {name[:140]}")


if __name__ == "__main__":
    main()
