#!/usr/bin/env python3
"""Prints the licences of all code that is compiled into the gateway: third-party.py.

Binary distributions have to carry these texts (MIT, BSD, ISC, Apache-2.0). The packages are those that `crossgate` links: normal
dependencies, without procedural macros and build scripts. Each text is printed once, after the packages that have it. A package without
a text, and a text of a copyleft licence, are errors.
"""

import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
NAME = re.compile(r"(licen[cs]e|copying|notice|unlicense|copyright|patents)([-._].*)?", re.IGNORECASE)
# Released from one repository, which has one text for both.
TEXT_OF = {"alloc-stdlib": "alloc-no-stdlib"}
# Packages with a choice of licences, which are used under the other one.
UNUSED = {("self_cell", "LICENSE-GPLv2"), ("zstd-sys", "zstd/COPYING")}
COPYLEFT = re.compile(r"GNU (LESSER |AFFERO )?GENERAL PUBLIC LICENSE|Mozilla Public License", re.IGNORECASE)
RULE = "=" * 100
STANDARD_LIBRARY = "The Rust standard library, Copyright The Rust Project Developers, is used under the Apache License 2.0, which is printed below."


def main():
    packages = sorted(linked(), key=lambda package: (package["name"], package["version"]))
    texts = {package["id"]: texts_of(package) for package in packages}
    by_name = {package["name"]: texts[package["id"]] for package in packages}
    users, faults = {(ROOT / "LICENSE").read_text().strip(): ["the Rust standard library"]}, []
    for package in packages:
        own = texts[package["id"]] or by_name.get(TEXT_OF.get(package["name"]), {})
        if not own:
            faults.append(f"{label(package)}: no licence text")
        for name, text in own.items():
            if COPYLEFT.search(text[:2000]):
                faults.append(f"{label(package)}: {name} is the text of a copyleft licence")
            users.setdefault(text, []).append(label(package))
    for fault in faults:
        print(f"third-party: {fault}", file=sys.stderr)
    if faults:
        sys.exit(1)
    print("Crossgate contains the packages below. Each licence text follows the packages that it belongs to.\n")
    print(STANDARD_LIBRARY)
    for text, names in users.items():
        print(f"\n{RULE}\n{chr(10).join(dict.fromkeys(names))}\n{RULE}\n\n{text}")


def linked():
    """The packages of the registry that end up in the binary."""
    host = re.search(r"^host: (\S+)$", output("rustc", "-vV"), re.MULTILINE).group(1)
    metadata = json.loads(output("cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", host))
    packages = {package["id"]: package for package in metadata["packages"]}
    dependencies = {node["id"]: node["deps"] for node in metadata["resolve"]["nodes"]}
    seen, waiting = set(), [package["id"] for package in metadata["packages"] if package["name"] == "crossgate"]
    while waiting:
        one = waiting.pop()
        if one in seen or any("proc-macro" in target["kind"] for target in packages[one]["targets"]):
            continue
        seen.add(one)
        waiting += [dependency["pkg"] for dependency in dependencies[one] if any(kind["kind"] is None for kind in dependency["dep_kinds"])]
    found = [packages[one] for one in seen if packages[one]["source"] is not None]
    if len(found) < 50:
        sys.exit(f"third-party: cargo metadata gave only {len(found)} packages")
    return found


def output(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def texts_of(package):
    """The licence files of a package, and of the C code in it."""
    directory = pathlib.Path(package["manifest_path"]).parent
    files = {path.relative_to(directory).as_posix(): path for path in sorted(directory.rglob("*")) if path.is_file() and NAME.fullmatch(path.name)}
    return {name: path.read_text(errors="replace").strip() for name, path in files.items() if (package["name"], name) not in UNUSED}


def label(package):
    return f"{package['name']} {package['version']} ({package['license']})"


if __name__ == "__main__":
    main()
