#!/usr/bin/env python3
"""Counts what a request takes in the gateway's process and in bare Pingora's: instructions, and those that lock the bus.

The real programs run under valgrind's callgrind, one connection sends one request after the other, and the counts of some thousand of
them are divided. Unlike times they do not hang on what else the machine does. Only what the processes do is counted, not what
the kernel does for them; and with one connection every request pays for the wake-up that many share under load.
Instructions that lock the bus are atomic ones; by function they show which of them write to memory that other threads write to.
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
    "preflight, denied": ("OPTIONS", "https://stranger.example", ASKS),
    "GET, proxied": ("GET", "https://o0.example", ""),
}
FUNCTION = re.compile(r"c?fn=\((\d+)\)(?: (.*))?")


def main():
    arguments = parse()
    processes.end_on_signals()
    engines.Crossgate.binary, engines.Pingora.binary = str(arguments.crossgate), str(arguments.pingora)
    with tempfile.TemporaryDirectory(prefix="count-") as directory:
        directory = pathlib.Path(directory)
        upstream = engines.Upstream(directory / "upstream", free_port(), "")
        with Running(upstream.name, upstream.command(Setup()), upstream.port, directory / "upstream.log"):
            counted = {}
            for engine in (engines.Crossgate, engines.Pingora):
                kinds = KINDS if engine is engines.Crossgate else ["GET, proxied"]
                for kind in kinds:
                    made = engine(directory / "engine", free_port(), f"127.0.0.1:{upstream.port}")
                    counted[engine.name, kind] = count(made, kind, directory)
    tell(counted, arguments.functions)


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crossgate", required=True, type=pathlib.Path, help="the built gateway")
    parser.add_argument("--pingora", required=True, type=pathlib.Path, help="the built bare Pingora proxy")
    parser.add_argument("--functions", type=int, default=0, help="this many functions of each")
    return parser.parse_args()


def count(engine, kind, directory):
    """Instructions and bus locks of one request, by function."""
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
        sys.exit("the server closes the connection")
    return piece


def control(what, pid):
    subprocess.run(["callgrind_control", what, str(pid)], capture_output=True, check=True)


def read(profile):
    """Adds up each function's own costs; those of calls, which callgrind writes beside them, are left out."""
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


def tell(counted, functions):
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
