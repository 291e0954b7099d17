"""Clients of the gateway: one kept connection, and steady traffic from a separate process."""

import http.client
import multiprocessing
import signal
import time

TIMEOUT_SECONDS = 30
TRAFFIC_CONNECTIONS = 8


class Connection:
    """One connection. It is not replaced silently if it ends."""

    def __init__(self, port):
        self.http = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
        self.http.connect()
        self.http.auto_open = 0

    def preflight(self, host, origin):
        return self.ask("OPTIONS", host, {"Origin": origin, "Access-Control-Request-Method": "PUT"})

    def get(self, host, origin):
        return self.ask("GET", host, {"Origin": origin})

    def ask(self, method, host, fields):
        """Sends a request and returns the status of its answer."""
        self.http.request(method, "/orders", headers={"Host": host, **fields})
        answer = self.http.getresponse()
        answer.read()
        return answer.status

    def close(self):
        self.http.close()


def admin(port, method, path):
    """Sends a request to the admin listener and returns status and text of its answer."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    client.request(method, path)
    answer = client.getresponse()
    text = answer.read().decode()
    client.close()
    return answer.status, text


class Traffic:
    """Allowed preflights at a fixed rate for the duration of the block. Any answer but 204 is an error."""

    def __init__(self, port, rate, cases):
        self.arguments = (port, rate, cases)
        self.rate = rate

    def __enter__(self):
        self.receiver, sender = multiprocessing.Pipe(duplex=False)
        self.stop = multiprocessing.Event()
        self.process = multiprocessing.Process(target=send_steadily, args=(*self.arguments, self.stop, sender), daemon=True)
        self.process.start()
        # The first message reports that the connections are open.
        self.receiver.recv()
        return self

    def __exit__(self, kind, *_):
        self.stop.set()
        self.result = self.receiver.recv() if kind is None and self.receiver.poll(2 * TIMEOUT_SECONDS) else None
        self.process.join(1)
        if self.process.is_alive():
            self.process.kill()


def send_steadily(port, rate, cases, stop, sender):
    # The parent handles Ctrl-C and stops this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connections = [Connection(port) for _ in range(TRAFFIC_CONNECTIONS)]
    sender.send("ready")
    times_ms, errors, begun = [], [], time.monotonic()
    for number in range(1_000_000_000):
        due = begun + number / rate
        time.sleep(max(0.0, due - time.monotonic()))
        if stop.is_set():
            break
        slot = number % len(connections)
        try:
            status = connections[slot].preflight(*cases[number % len(cases)])
        except (OSError, http.client.HTTPException) as error:
            status = repr(error)
            connections[slot] = Connection(port)
        if status != 204:
            errors.append(str(status))
        # From the due time, so that a pause of the gateway counts for all requests that it delays (coordinated omission).
        times_ms.append(1e3 * (time.monotonic() - due))
    times_ms.sort()
    at = lambda share: times_ms[int(share * (len(times_ms) - 1))] if times_ms else 0.0
    sender.send({"requests": len(times_ms), "errors": len(errors), "first_errors": errors[:3], "p50_ms": at(0.5), "p99_ms": at(0.99),
                 "worst_ms": at(1.0)})
