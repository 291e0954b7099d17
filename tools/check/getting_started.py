#!/usr/bin/env python3
"""Runs the examples of README.md and docs/getting-started.md: getting_started.py [BINARY] [--page PAGE]..

In a ```console block, a line that begins with `$ ` is a command and the lines up to the next one are its expected output.
`...` stands for any text in a line, and for any lines where it is the whole line. Without expected output, the output is
ignored. A command has to exit with 0, unless its expected output begins with `error`. A block such as
```yaml crossgate.yaml writes that file. Other blocks are not run.

Each page runs in one shell and one temporary directory. Fixed ports become free ones, in commands, output and YAML files.
`make run` starts ops/demo.sh with the given binary; the comment `<!-- check: end make run -->` ends it.
"""

import argparse
import os
import pathlib
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# The process handling is that of the side-by-side runs.
sys.path.append(str(ROOT / "benches" / "peers"))

import processes

PAGES = [ROOT / "README.md", ROOT / "docs" / "getting-started.md"]
PORTS = {"PORT": "8080", "PAGE_PORT": "3000", "ADMIN_PORT": "9900", "UPSTREAM_PORT": "9001"}
COMMAND_SECONDS_MAX = 30
DEMO_SECONDS_MAX = 30
DEMO_COMMAND = "make run"
DEMO_END = "<!-- check: end make run -->"
MARK = "=== exit status"


def main():
    arguments = parse_arguments()
    processes.end_on_signals()
    for page in arguments.page or PAGES:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="getting-started-") as directory:
            with Session(arguments.binary.resolve(), pathlib.Path(directory)) as session:
                count = run_page(page.resolve(), session)
        print(f"{page.name}: {count} steps pass, {time.monotonic() - begun:.1f} s", flush=True)


def parse_arguments():
    parser = argparse.ArgumentParser(description="Runs the examples of README.md and docs/getting-started.md.")
    parser.add_argument("binary", type=pathlib.Path, nargs="?", default=ROOT / "target/debug/crossgate", help="the built gateway")
    parser.add_argument("--page", type=pathlib.Path, action="append", help="a page to run instead of these; may be repeated")
    arguments = parser.parse_args()
    if not arguments.binary.is_file():
        parser.error(f"no such file: {arguments.binary}")
    return arguments


def run_page(page, session):
    steps = list(parse_page(page.read_text()))
    for line, action, *details in steps:
        try:
            getattr(session, action)(*details)
        except Failure as failure:
            sys.exit(f"{page}:{line}: {failure}")
    return len(steps)


def parse_page(text):
    """The steps of a page: its line number, the method of `Session`, and the arguments."""
    fence, block = None, []
    for number, line in enumerate(text.splitlines(), start=1):
        if fence is None and line.startswith("```"):
            fence, block = line[3:].split(), []
        elif fence is None and line.strip() == DEMO_END:
            yield number, "end_demo"
        elif fence is not None and line == "```":
            yield from parse_block(fence, block)
            fence = None
        elif fence is not None:
            block.append((number, line))


def parse_block(fence, block):
    if len(fence) == 2 and block:
        yield block[0][0], "write_file", fence[1], "".join(f"{line}\n" for _, line in block)
    if fence[:1] != ["console"]:
        return
    commands = [at for at, (_, line) in enumerate(block) if line.startswith("$ ")]
    for at, end in zip(commands, [*commands[1:], len(block)]):
        number, command = block[at]
        yield number, "run", command.removeprefix("$ "), [line for _, line in block[at + 1:end]]


class Failure(Exception):
    """A step that does not do what the page says."""


class Session:
    """One shell in one directory, and the demo where a page starts it, for as long as the block lasts."""

    def __init__(self, binary, directory):
        self.binary, self.directory = binary, directory
        self.ports = {name: processes.free_port() for name in PORTS}
        self.demo = self.shell = None
        self.output = queue.Queue()

    def __enter__(self):
        programs = self.directory / "target" / "debug"
        programs.mkdir(parents=True)
        (programs / "crossgate").symlink_to(self.binary)
        environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": str(self.directory)}
        self.shell = subprocess.Popen(["bash", "--norc"], cwd=self.directory, env=environment, text=True, start_new_session=True,
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        threading.Thread(target=self.read_output, daemon=True).start()
        return self

    def __exit__(self, *_):
        try:
            self.end_demo()
        finally:
            # The shell's background jobs are in its process group.
            os.killpg(self.shell.pid, processes.signal.SIGKILL)
            self.shell.wait()

    def read_output(self):
        for line in self.shell.stdout:
            self.output.put(line.rstrip("\r\n"))

    def write_file(self, name, text):
        (self.directory / name).write_text(self.with_free_ports(text))

    def run(self, command, expected):
        if command == DEMO_COMMAND:
            self.start_demo()
            return
        status, output = self.execute(self.with_free_ports(command))
        expected = [self.with_free_ports(line) for line in expected]
        may_fail = expected[:1] and expected[0].startswith("error")
        if status != 0 and not may_fail:
            raise Failure(f"`{command}` exits with {status}:\n{indented(output)}")
        if expected and not matches(expected, output):
            raise Failure(f"`{command}` prints something else. Expected:\n{indented(expected)}\nGot:\n{indented(output)}")
        self.free_ports_in_files()

    def execute(self, command):
        """The exit status and the lines of a command."""
        self.shell.stdin.write(f"{{ {command}\n}} </dev/null\nprintf '\\n{MARK} %s\\n' $?\n")
        self.shell.stdin.flush()
        end, lines = time.monotonic() + COMMAND_SECONDS_MAX, []
        while not (lines and lines[-1].startswith(MARK)):
            try:
                lines.append(self.output.get(timeout=max(0, end - time.monotonic())))
            except queue.Empty:
                raise Failure(f"`{command}` does not end within {COMMAND_SECONDS_MAX} s:\n{indented(lines)}") from None
        status = int(lines.pop().removeprefix(MARK))
        while lines and not lines[-1]:
            lines.pop()
        return status, lines

    def with_free_ports(self, text):
        for name, fixed in PORTS.items():
            text = re.sub(rf"(?<=:){fixed}\b", str(self.ports[name]), text)
        return text

    def free_ports_in_files(self):
        """In files that a command has written, such as `crossgate init`."""
        for path in self.directory.rglob("*.yaml"):
            text = path.read_text()
            if self.with_free_ports(text) != text:
                path.write_text(self.with_free_ports(text))

    def start_demo(self):
        log = self.directory / "demo.log"
        environment = os.environ | {name: str(port) for name, port in self.ports.items()}
        with log.open("wb") as file:
            self.demo = subprocess.Popen([ROOT / "ops" / "demo.sh", self.binary], env=environment, stdin=subprocess.DEVNULL,
                                         stdout=file, stderr=file)
        end = time.monotonic() + DEMO_SECONDS_MAX
        while not all(processes.listens(port) for port in self.ports.values()):
            if self.demo.poll() is not None or time.monotonic() > end:
                raise Failure(f"the demo does not start:\n{log.read_text(errors='replace')}")
            time.sleep(0.05)

    def end_demo(self):
        """It ends the gateway and the demo API itself, as with Ctrl-C."""
        if self.demo is None:
            return
        self.demo.terminate()
        self.demo.wait(DEMO_SECONDS_MAX)
        self.demo = None


def matches(expected, output):
    pattern = "".join(r"(?:.*\n)*?" if line == "..." else re.escape(line).replace(r"\.\.\.", ".*") + r"\n" for line in expected)
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in output)) is not None


def indented(lines):
    return "\n".join(f"    {line}" for line in lines)


if __name__ == "__main__":
    main()
