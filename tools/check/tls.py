"""TLS handshakes with every result, and HTTP/2: requests, a flood, and invalid frames."""

import socket
import ssl
import subprocess

TIMEOUT_SECONDS = 10
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
PING = bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + b"8 bytes!"
# A PING of invalid length.
ODD_PING = bytes([0, 0, 5, 6, 0, 0, 0, 0, 0]) + b"5 odd"
# More frames than the limit.
FLOOD = 1_500


class Secure:
    """The TLS port, the plain port, and a certificate for this run."""

    def __init__(self, port, plain, directory, host):
        self.port, self.plain, self.host = port, plain, host
        self.certificate, self.key = directory / "api.crt", directory / "api.key"

    def make_certificate(self):
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
                   "-subj", "/CN=created for one run", "-addext", f"subjectAltName=DNS:{self.host}",
                   "-keyout", self.key, "-out", self.certificate]
        subprocess.run(command, check=True, capture_output=True)

    def round(self):
        """A few handshakes and requests that end at once."""
        self.shake_hands(expected=None)
        self.shake_hands(name="unknown.example", expected="unrecognized name")
        self.shake_hands(protocol="gopher", expected="no application protocol")
        self.shake_hands(trusts=None, expected="certificate verify failed")
        self.send(b"GET / HTTP/1.1\r\n\r\n", self.port)
        self.send(bytes(64), self.port)
        with socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_SECONDS):
            pass
        self.ask_over_http2()

    def slow_ones(self):
        """Connections that end at a limit, and one with an invalid frame."""
        return [lambda: self.send(b"", self.port), lambda: self.send(PREFACE + FLOOD * PING, self.plain),
                lambda: self.send(PREFACE + ODD_PING, self.plain)]

    def shake_hands(self, expected, name=None, protocol="http/1.1", trusts=True):
        context = ssl.create_default_context(cafile=self.certificate if trusts else None)
        context.set_alpn_protocols([protocol])
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT_SECONDS) as client:
                context.wrap_socket(client, server_hostname=name or self.host).close()
            ended = None
        except ssl.SSLError as error:
            ended = str(error)
        if ended != expected and not (expected and expected in (ended or "")):
            raise AssertionError(f"a handshake for {name or self.host} with {protocol} ended as {ended}, expected {expected}")

    def ask_over_http2(self):
        """Sends two requests over one connection, negotiated like a browser's."""
        url = f"https://{self.host}:{self.port}/orders"
        command = ["curl", "--silent", "--show-error", "--http2", "--cacert", self.certificate, "--resolve", f"{self.host}:{self.port}:127.0.0.1",
                   "--write-out", "%{http_version} %{http_code}\n", *2 * ["--output", "/dev/null", url]]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.stdout != 2 * "2 200\n":
            raise AssertionError(f"requests over HTTP/2 were answered with {done.stdout!r}: {done.stderr}")

    def send(self, bytes_sent, port):
        """Sends bytes and reads until the gateway closes the connection."""
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS) as client:
            try:
                client.sendall(bytes_sent)
                while client.recv(65536):
                    pass
            except (ConnectionResetError, BrokenPipeError):
                pass
