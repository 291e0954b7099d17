"""Requests of every kind, so that every family of metrics has counted, those of faults included."""

import http.client
import socket
import threading

APP = "https://app.acme.example"
HOST = "api.acme.example"
TIMEOUT_SECONDS = 10
# More than a tenant may have series.
MANY = 2_050
PIPELINED = 50


class Load:
    def __init__(self, port, balanced, secure):
        """The port for clients, the one for a balancer that passes connections on, and the load of the one that speaks TLS."""
        self.port, self.balanced, self.secure = port, balanced, secure

    def round(self, number, times=1):
        """A few of everything that is over at once. Each call with another number has some origins and paths of its own."""
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
        yield "GET", "/public", HOST, {"Origin": "https://anybody.example"}, 404
        yield "GET", "/orders", HOST, {"Origin": f"http://{HOST}"}, 200
        yield "GET", "/orders", HOST, {}, 200
        yield "POST", "/orders", HOST, {"Origin": "https://evil.example"}, 403
        yield "OPTIONS", "/orders", HOST, preflight("https://evil.example", "PUT"), 403
        yield "OPTIONS", "/orders", HOST, preflight("null", "PUT"), 403
        yield "OPTIONS", "/orders", HOST, preflight(f"{APP}/", "PUT"), 403
        yield "OPTIONS", "/orders", HOST, preflight(APP, "PATCH"), 403
        yield "OPTIONS", "/orders", HOST, {**preflight(APP, "PUT"), "Access-Control-Request-Headers": "x-new"}, 403
        yield "GET", "/orders", HOST, {"Origin": "https://evil.example", "Connection": "Upgrade", "Upgrade": "websocket"}, 403
        yield "GET", "/", "nobody.example", {}, 421
        yield "GET", "/nowhere", "api.many.example", {}, 404
        yield "GET", "/down", HOST, {"Origin": APP}, 502
        yield "GET", "/untrusted", HOST, {"Origin": APP}, 502
        yield "GET", "/nowhere", HOST, {"Origin": APP}, 503
        yield "GET", "/orders", "api.globex.example", {"Origin": "https://app.globex.example"}, 200
        yield "GET", "/orders", "api.globex.example", {"Origin": "https://evil.example"}, 200
        # Asked again, so that some are kept.
        for path in 2 * [f"/orders?{number}", f"/orders/{number}"]:
            yield "GET", path, "api.initech.example", {"Origin": "https://app.initech.example"}, 404 if "/orders/" in path else 200
        yield from 20 * [("GET", f"/orders/{number}/x", "api.initech.example", {"Origin": "https://evil.example"}, 403)]
        yield "GET", f"/orders/{'x' * 3000}", "api.initech.example", {"Origin": "https://evil.example"}, 403
        # Until the breaker opens.
        yield from 5 * [("GET", "/orders", "api.umbrella.example", {"Origin": "https://app.umbrella.example"}, 403)]
        yield "TRACE", "/", HOST, {}, 405
        yield "GET", "/", HOST, {"X-Large": "x" * 10_000}, 431

    def ask(self, method, path, host, fields):
        """The status of the answer."""
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
        """As a balancer: a connection with a header, and one without."""
        whole = f"GET /orders HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
        self.raw(f"PROXY TCP4 203.0.113.{number % 250} 192.0.2.1 40000 80\r\n".encode() + whole, answers=1, port=self.balanced)
        self.raw(whole, port=self.balanced)

    def many_paths(self):
        """More answers than are kept."""
        for number in range(40):
            self.ask("GET", f"/orders/many/{number}", "api.initech.example", {"Origin": "https://evil.example"})

    def many_origins(self):
        """Every one of more configured origins than may have a series, pipelined."""
        for first in range(0, MANY, PIPELINED):
            heads = [f"OPTIONS /orders HTTP/1.1\r\nHost: api.many.example\r\nOrigin: https://o{number}.example\r\n"
                     f"Access-Control-Request-Method: PUT\r\n\r\n" for number in range(first, first + PIPELINED)]
            self.raw("".join(heads).encode(), answers=PIPELINED)

    def slow_ones(self):
        """What takes until a limit is reached, all at once."""
        begun = f"POST /orders HTTP/1.1\r\nHost: {HOST}\r\n".encode()
        whole = f"GET /orders HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
        tasks = [
            # A head that does not end, a body that does not come, and silence after an answer.
            lambda: self.raw(begun, answers=1),
            lambda: self.raw(begun + b"Content-Length: 100000\r\n\r\nx"),
            lambda: self.raw(whole),
            lambda: self.ask("GET", "/slow", HOST, {"Origin": APP}),
            self.leave,
            # One is let through, one waits in vain, and one is too many.
            *3 * [lambda: self.ask("GET", "/slow", "api.hooli.example", {})],
            *self.secure.slow_ones(),
        ]
        threads = [threading.Thread(target=task) for task in tasks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def leave(self):
        """Goes away while the upstream takes its time."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_SECONDS) as client:
            client.sendall(f"GET /slow HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())

    def raw(self, sent, answers=None, port=None):
        """Sends bytes and reads so many answers, or until the other side ends."""
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
