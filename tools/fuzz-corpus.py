#!/usr/bin/env python3
"""Reads and writes the archives of fuzz inputs, fuzz/corpus/TARGET.txt.

  fuzz-corpus.py add TARGET FILE..     adds inputs, such as those of `make fuzz` in fuzz/artifacts/TARGET/
  fuzz-corpus.py unpack TARGET DIR     writes each input to a file of DIR, for a fuzzer
  fuzz-corpus.py pack TARGET DIR       replaces the archive by the files of DIR

An archive has one line per input, sorted by name: `name "bytes"`. Printable ASCII stands for itself,
except that `\\`, `"` and `'` follow a backslash. The other bytes are `\\t`, `\\r`, `\\n`, or `\\x` and two
lower-case hexadecimal digits. This is Rust's `[u8]::escape_ascii`, so the same inputs always give the
same file. fuzz/tests/replay.rs limits the number of inputs and their size.
"""

import argparse
import hashlib
import pathlib
import re
import sys

CORPUS = pathlib.Path(__file__).resolve().parent.parent / "fuzz" / "corpus"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
LINE = re.compile(rf'({NAME.pattern}) "((?:[^"\\]|\\.)*)"')
ESCAPE = re.compile(r"""\\(?:x([0-9a-f]{2})|([trn'"\\]))""")
CONTROLS = {"t": "\t", "r": "\r", "n": "\n"}


def main():
    arguments = parse()
    if not (CORPUS / f"{arguments.target}.txt").exists() and arguments.command != "pack":
        fail(f"no archive of target {arguments.target}: expected one of {', '.join(sorted(path.stem for path in CORPUS.glob('*.txt')))}")
    {"add": add, "unpack": unpack, "pack": pack}[arguments.command](arguments)


def parse():
    parser = argparse.ArgumentParser(description="Reads and writes the archives of fuzz inputs.")
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add", help="adds inputs to an archive")
    adding.add_argument("target", help="the fuzz target")
    adding.add_argument("--name", help="the input's name, for a single file; default: found- and 10 digits of its SHA-1")
    adding.add_argument("files", type=pathlib.Path, nargs="+", metavar="FILE", help="a file with one input")
    for name, text in (("unpack", "writes the inputs to files"), ("pack", "replaces an archive by the files of a directory")):
        command = commands.add_parser(name, help=text)
        command.add_argument("target", help="the fuzz target")
        command.add_argument("directory", type=pathlib.Path, metavar="DIR", help="the directory of the inputs")
    return parser.parse_args()


def add(arguments):
    """Adds files under new names; an input that the archive contains already is left out."""
    if arguments.name and len(arguments.files) > 1:
        fail("--name is for a single file")
    inputs = read(arguments.target)
    for path in arguments.files:
        content = path.read_bytes()
        known = next((name for name, other in inputs.items() if other == content), None)
        if known:
            print(f"{path}: already in the archive as {known}")
            continue
        name = arguments.name or f"found-{hashlib.sha1(content).hexdigest()[:10]}"
        if name in inputs:
            fail(f"{arguments.target}: another input has the name {name}")
        inputs[name] = content
        print(f"{path}: added as {name}")
    write(arguments.target, inputs)


def unpack(arguments):
    arguments.directory.mkdir(parents=True, exist_ok=True)
    inputs = read(arguments.target)
    for name, content in inputs.items():
        (arguments.directory / name).write_bytes(content)
    print(f"{arguments.directory}: {len(inputs)} inputs")


def pack(arguments):
    inputs = {path.name: path.read_bytes() for path in arguments.directory.iterdir()}
    write(arguments.target, inputs)
    print(f"{CORPUS / arguments.target}.txt: {len(inputs)} inputs")


def read(target):
    """The inputs of an archive by name."""
    path = CORPUS / f"{target}.txt"
    inputs = {}
    for number, line in enumerate(path.read_text("ascii").splitlines(), 1):
        match = LINE.fullmatch(line)
        content = match and unescape(match[2])
        if not match or escape(content) != match[2]:
            fail(f'{path}:{number}: invalid line: expected a name and quoted bytes, such as `upper "HTTPS://a\\r\\n"`')
        if match[1] in inputs:
            fail(f"{path}:{number}: the name {match[1]} is used twice")
        inputs[match[1]] = content
    return inputs


def write(target, inputs):
    for name in inputs:
        if not NAME.fullmatch(name):
            fail(f"invalid name {name}: expected lower-case letters, digits, `.`, `_` and `-`")
    lines = [f'{name} "{escape(content)}"\n' for name, content in sorted(inputs.items())]
    (CORPUS / f"{target}.txt").write_text("".join(lines), "ascii", newline="\n")


def escape(content):
    return "".join(map(escape_byte, content))


def escape_byte(byte):
    char = chr(byte)
    if char in "\\\"'":
        return f"\\{char}"
    named = next((letter for letter, control in CONTROLS.items() if control == char), None)
    if named:
        return f"\\{named}"
    return char if 0x20 <= byte < 0x7F else f"\\x{byte:02x}"


def unescape(text):
    plain = ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else CONTROLS.get(match[2], match[2]), text)
    return plain.encode("latin-1")


def fail(message):
    sys.exit(f"fuzz-corpus: {message}")


if __name__ == "__main__":
    main()
