"""Sends requests of every kind, so that every metric has counted, including those of failures."""

import http.client
import socket
import threading

APP = "https://app.acme.example"
HOST = "api.acme.example"
TIMEOUT_SECONDS = 10
# More origins than a tenant may have series.
MANY = 2_050
PIPELINED = 50


class Load:
    def __init__(self, port, balanced, secure):
        """The port for clients, the port for a layer-4 balancer, and the load of the TLS port."""
        self.port, self.balanced, self.secure = port, balanced, secure

    def round(self, number, times=1):
        """Sends a few requests of every kind that end at once. Each number has some own origins and paths."""
        for turn in range(times):
            for method, path, host, fields, status in self.cases(number * times + turn):
                answered = self.ask(method, path, host, fields)
                if answered != status:
                    raise AssertionError(f"{method} {host}{path} {fields} was answered with {answered}, expected {status}")
            self.pass_on(turn)
        self.secure.round()

    def cases(self, number):
        preview = f"https://b{number % 5}.preview.acme.example"
        yield from 6 * [("OPTIONS", "/orders", HOST, preflight(APP, "PUT"), 204)]
        yield from 2 * [("OPTIONS", "/orders", HOST, preflight("https://admin.acme.example", "PUT"), 204)]
        yield from 4 * [("GET", "/orders", HOST, {"Origin": APP}, 200)]
        yield from 2 * [("GET", "/orders", HOST, {"Origin": preview}, 200)]
        yield "GET", "/orders", HOST, {"Origin": "https://pr-12.acme.example"}, 200
        yield "POST", "/session", HOST, {"Origin": APP, "Sec-Fetch-Site": "cross-site"}, 200
        yield "GET", "/menu", HOST, {"Origin": APP, "Cookie": "demo_session=42"}, 200
        yield "GET", "/public", HOST, {"Origin": "https://any.example"}, 404
        yield "GET", "/guarded", HOST, {"Origin": APP}, 404
        yield "GET", "/orders", HOST, {"Origin": f"http://{HOST}"}, 200
        yield "GET", "/orders", HOST, {}, 200
        yield "POST", "/orders", HOST, {"Origin": "https://evil.example"}, 403
        yield "OPTIONS", "/orders", HOST, preflight("https://evil.example", "PUT"), 403
        yield "OPTIONS", "/orders", HOST, preflight("null", "PUT"), 403
        yield "OPTIONS", "/orders", HOST, preflight(f"{APP}/", "PUT"), 403
        yield "OPTIONS", "/orders", HOST, preflight(APP, "PATCH"), 204
        yield "OPTIONS", "/orders", HOST, {**preflight(APP, "PUT"), "Access-Control-Request-Headers": "x-new"}, 204
        yield "GET", "/orders", HOST, {"Origin": "https://evil.example", "Connection": "Upgrade", "Upgrade": "websocket"}, 403
        yield "POST", "/guarded", HOST, {"Sec-Fetch-Site": "cross-site"}, 403
        yield "POST", "/watched", HOST, {"Sec-Fetch-Site": "cross-site"}, 404
        yield "GET", "/", "unknown.example", {}, 421
        yield "GET", "/nowhere", "api.many.example", {}, 404
        yield "GET", "/down", HOST, {"Origin": APP}, 502
        yield "GET", "/untrusted", HOST, {"Origin": APP}, 502
        yield "GET", "/nowhere", HOST, {"Origin": APP}, 503
        yield "GET", "/orders", "api.globex.example", {"Origin": "https://app.globex.example"}, 200
        yield "GET", "/orders", "api.globex.example", {"Origin": "https://evil.example"}, 200
        # Repeated, so that some answers are cached.
        for path in 2 * [f"/orders?{number}", f"/orders/{number}"]:
            yield "GET", path, "api.initech.example", {"Origin": "https://app.initech.example"}, 404 if "/orders/" in path else 200
        yield from 20 * [("GET", f"/orders/{number}/x", "api.initech.example", {"Origin": "https://evil.example"}, 403)]
        yield "GET", f"/orders/{'x' * 3000}", "api.initech.example", {"Origin": "https://evil.example"}, 403
        # Until the breaker opens.
        yield from 5 * [("GET", "/orders", "api.umbrella.example", {"Origin": "https://app.umbrella.example"}, 403)]
        yield "GET", "/gateway-health", "10.0.0.1", {}, 200
        yield "TRACE", "/", HOST, {}, 405
        yield "GET", "/", HOST, {"X-Large": "x" * 10_000}, 431

    def ask(self, method, path, host, fields):
        """The status of the response."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECONDS)
        client.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in {"Host": host, **fields}.items():
            client.putheader(name, value)
        client.endheaders()
        try:
            return client.getresponse().status
        finally:
            client.close()

    def pass_on(self, number):
        """Connects like a balancer, with and without a PROXY header."""
        whole = f"GET /orders HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
        self.raw(f"PROXY TCP4 203.0.113.{number % 250} 192.0.2.1 40000 80\r\n".encode() + whole, answers=1, port=self.balanced)
        self.raw(whole, port=self.balanced)

    def many_paths(self):
        """Asks for more answers than are cached."""
        for number in range(40):
            self.ask("GET", f"/orders/many/{number}", "api.initech.example", {"Origin": "https://evil.example"})

    def many_origins(self):
        """Sends preflights of more configured origins than may have a series, pipelined."""
        for first in range(0, MANY, PIPELINED):
            heads = [f"OPTIONS /orders HTTP/1.1\r\nHost: api.many.example\r\nOrigin: https://o{number}.example\r\n"
                     f"Access-Control-Request-Method: PUT\r\n\r\n" for number in range(first, first + PIPELINED)]
            self.raw("".join(heads).encode(), answers=PIPELINED)

    def slow_ones(self):
        """Opens connections that end at a limit, all at once."""
        begun = f"POST /orders HTTP/1.1\r\nHost: {HOST}\r\n".encode()
        whole = f"GET /orders HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
        tasks = [
            # An incomplete head, a missing body, and an idle connection after a response.
            lambda: self.raw(begun, answers=1),
            lambda: self.raw(begun + b"Content-Length: 100000\r\n\r\nx"),
            lambda: self.raw(whole),
            lambda: self.ask("GET", "/slow", HOST, {"Origin": APP}),
            self.leave,
            # One request is sent, one waits until the timeout, and one is over the limit.
            *3 * [lambda: self.ask("GET", "/slow", "api.hooli.example", {})],
            *self.secure.slow_ones(),
        ]
        threads = [threading.Thread(target=task) for task in tasks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def leave(self):
        """Leaves before the slow upstream responds."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_SECONDS) as client:
            client.sendall(f"GET /slow HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())

    def raw(self, sent, answers=None, port=None):
        """Sends bytes and reads that many responses, or until the gateway closes the connection."""
        with socket.create_connection(("127.0.0.1", port or self.port), timeout=TIMEOUT_SECONDS) as client:
            client.sendall(sent)
            read = b""
            while answers is None or read.count(b"HTTP/1.1 ") < answers:
                try:
                    piece = client.recv(65536)
                except ConnectionResetError:
                    piece = b""
                if not piece:
                    return
                read += piece


def preflight(origin, method):
    return {"Origin": origin, "Access-Control-Request-Method": method}
