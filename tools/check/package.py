#!/usr/bin/env python3
"""Installs, runs, upgrades, removes and purges a built Debian package in a temporary root, and unpacks the tarball: package.py --deb DEB
--tarball TAR.

The root contains copies of Debian's essential packages and of the dependencies, as they are installed on this machine. So dpkg checks the
dependencies, and the gateway finds no other library. Nothing is installed on the machine. Needs root, for chroot.
"""

import argparse
import contextlib
import hashlib
import http.client
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.append(str(ROOT / "benches" / "peers"))

import processes

CONFIG = "etc/crossgate/crossgate.yaml"
UNIT = "usr/lib/systemd/system/crossgate.service"
COMMANDS = ("run", "check", "explain", "test", "schema", "demo-upstream")
# Large files that the package's scripts do not use.
LEFT_OUT = ("/usr/share/doc/", "/usr/share/locale/", "/usr/share/man/", "/usr/share/i18n/", "/usr/share/info/", "/usr/lib/locale/",
            "/usr/lib/x86_64-linux-gnu/gconv/", "/usr/lib/aarch64-linux-gnu/gconv/")
# Internal files of dpkg and adduser: locks, logs and previous versions.
OWN = re.compile(r"var/lib/dpkg/.*|var/log/.*|var/cache/.*|etc/(passwd|group|shadow|gshadow|subuid|subgid)-|etc/\.pwd\.lock|run/adduser|dev/null")
# Relative links in Markdown, without their anchors.
LINK = re.compile(r"\]\((?![a-z][a-z0-9+.-]*:)([^)#\s]+)")
# Files that installed pages link to and that only the repository has: tests, and the list of promises.
REPOSITORY_ONLY = {"policy/tests/corpus/README.md", "tools/rows.toml"}
PACKAGE_FIELDS = "${Package}\t${Essential}\t${Provides}\t${Pre-Depends}, ${Depends}\n"
HOST = "api.acme.example"
ALLOWED = "https://app.acme.example"
STUB = """#!/bin/sh
echo "$*" >>/run/systemctl.log
"""


def main():
    arguments = parse()
    processes.end_on_signals()
    with tempfile.TemporaryDirectory(prefix="package-") as directory:
        root = pathlib.Path(directory) / "root"
        make_root(root, control(arguments.deb, "Depends"))
        before = tree(root)
        check_control(arguments.deb)
        check_install(root, arguments.deb)
        check_service(root, "usr/bin/crossgate", CONFIG)
        check_upgrade(root, arguments.deb)
        check_purge(root, arguments.deb, before)
        check_tarball(root, arguments.tarball)
    print("package: good")


def parse():
    parser = argparse.ArgumentParser(description="Installs, runs, upgrades, removes and purges a built Debian package in a temporary root.")
    parser.add_argument("--deb", type=pathlib.Path, required=True, help="the Debian package")
    parser.add_argument("--tarball", type=pathlib.Path, required=True, help="the tarball")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("chroot needs root: run this as root")
    return arguments


def expect(condition, fault):
    if not condition:
        sys.exit(f"package: {fault}")


def run(*command, **options):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)
    expect(done.returncode == 0, f"{' '.join(map(str, command))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def control(deb, field):
    return run("dpkg-deb", "--field", deb, field).strip()


# A root with the dependencies.

def make_root(root, depends):
    packages = closure(depends)
    for link in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if (pathlib.Path("/") / link).is_symlink():
            (root / "usr" / link).mkdir(parents=True, exist_ok=True)
            (root / link).symlink_to(f"usr/{link}")
    for path in run("dpkg-query", "--listfiles", *packages).splitlines():
        if path.startswith("/") and path != "/." and not path.startswith(LEFT_OUT):
            copy(pathlib.Path(path), root)
    if not (root / "bin/sh").exists():
        (root / "bin/sh").symlink_to("dash")
    for directory in ("dev", "run", "tmp", "etc", "usr/local", "var/log", "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    for name in ("passwd", "group"):
        shutil.copy(root / f"usr/share/base-passwd/{name}.master", root / "etc" / name)
    for name in ("shadow", "gshadow"):
        (root / "etc" / name).touch(0o640)
    (root / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nshadow: files\n")
    (root / "dev/null").touch(0o666)
    (root / "var/lib/dpkg/status").write_text(run("dpkg-query", "--status", *packages))
    (root / "var/lib/dpkg/available").touch()
    for package in packages:
        for listed in pathlib.Path("/var/lib/dpkg/info").glob(f"{package}*.list"):
            if listed.name.split(".list")[0].split(":")[0] == package:
                shutil.copy(listed, root / "var/lib/dpkg/info")


def copy(path, root):
    to = root / path.relative_to("/")
    if path.is_symlink():
        to.parent.mkdir(parents=True, exist_ok=True)
        if not to.is_symlink() and not to.exists():
            to.symlink_to(os.readlink(path))
    elif path.is_dir():
        to.mkdir(parents=True, exist_ok=True)
    elif path.is_file():
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, to)


def closure(depends):
    """Essential packages, those of `depends`, and their dependencies, as far as they are installed here."""
    lines = [line.split("\t") for line in run("dpkg-query", "--show", "--showformat", PACKAGE_FIELDS).splitlines()]
    needs = {name: rest for name, _, _, rest in lines}
    providers = {}
    for name, _, provided, _ in lines:
        for virtual in names(provided):
            providers.setdefault(virtual[0], name)
    waiting = [name for name, essential, _, _ in lines if essential == "yes"] + ["dpkg"] + wanted(depends, needs, providers)
    seen = set()
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            waiting += wanted(needs[one], needs, providers)
    return sorted(seen)


def names(relations):
    """Each relation's alternatives, by name."""
    return [[re.split(r"[\s:(]", choice.strip())[0] for choice in one.split("|")] for one in relations.split(",") if one.strip()]


def wanted(relations, needs, providers):
    """The installed alternative of each relation. dpkg reports those that are missing."""
    chosen = [next((name if name in needs else providers[name] for name in choices if name in needs or name in providers), None)
              for choices in names(relations)]
    return [name for name in chosen if name]


def tree(root):
    """Every path with its content, except internal files of dpkg and adduser."""
    paths = [path for path in sorted(root.rglob("*")) if not OWN.fullmatch(path.relative_to(root).as_posix())]
    return {path.relative_to(root).as_posix(): content(path) for path in paths}


def content(path):
    if path.is_symlink():
        return os.readlink(path)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "directory"


def dpkg(root, *command):
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    # The root is temporary, so no data needs to be synchronised to disk.
    return run("dpkg", "--force-unsafe-io", f"--root={root}", *command, env=environment, stdin=subprocess.DEVNULL)


# The checks, in this order.

def check_control(deb):
    depends = {choices[0] for choices in names(control(deb, "Depends"))}
    expect(depends == {"adduser", "libc6", "libgcc-s1"}, f"the package depends on {sorted(depends)}, expected adduser and two libraries")
    version = run("dpkg-deb", "--field", deb, "Version").strip().rsplit("-", 1)[0]
    workspace = re.search(r'^version = "([^"]+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE).group(1)
    expect(version == workspace, f"the package has the version {version}, Cargo.toml {workspace}")
    for field in ("Maintainer", "Section", "Priority", "Architecture", "Description"):
        expect(control(deb, field), f"the field {field} is empty")


def check_install(root, deb):
    dpkg(root, "--install", deb)
    expect(dpkg(root, "--verify", "crossgate") == "", "files differ from the package's checksums")
    files = ["usr/bin/crossgate", UNIT, CONFIG, "usr/share/bash-completion/completions/crossgate", "usr/share/zsh/vendor-completions/_crossgate",
             "usr/share/fish/vendor_completions.d/crossgate.fish", "usr/share/doc/crossgate/copyright", "usr/share/doc/crossgate/changelog.Debian.gz",
             "usr/share/doc/crossgate/README.md", "usr/share/doc/crossgate/THIRD-PARTY.txt",
             "usr/share/doc/crossgate/docs/operations/runbook.md", "usr/share/doc/crossgate/docs/reference/metrics.md",
             "usr/share/doc/crossgate/examples/prometheus/alerts.yml", "usr/share/doc/crossgate/examples/kubernetes/deployment.yaml",
             *installed_scripts("usr/share/doc/crossgate"), "usr/share/man/man1/crossgate.1.gz",
             *(f"usr/share/man/man1/crossgate-{command}.1.gz" for command in COMMANDS)]
    for name in files:
        path = root / name
        expect(path.is_file() and path.stat().st_size > 0, f"{name} is not installed")
        expect((path.stat().st_uid, path.stat().st_mode & 0o022) == (0, 0), f"{name} can be changed by other users than root")
    expect(dpkg(root, "--status", "crossgate").count(f" /{CONFIG} ") == 1, "the configuration is not a conffile")
    account = user(root)
    expect(account and 100 <= int(account[2]) < 1000 and account[6].endswith("nologin"), f"no system user crossgate: {account}")
    exec_start = re.search(r"^ExecStart=(\S+) run --config (\S+)$", (root / UNIT).read_text(), re.MULTILINE)
    expect(exec_start and all((root / path.lstrip("/")).is_file() for path in exec_start.groups()), "the unit starts files that do not exist")
    licences = (root / "usr/share/doc/crossgate/THIRD-PARTY.txt").read_text()
    for part in ("pingora-core ", "rustls ", "aws-lc-sys ", "ring ", "libmimalloc-sys ", "libz-ng-sys ", "zstd-sys ", "Apache License", "Permission is hereby granted"):
        expect(part in licences, f"THIRD-PARTY.txt lacks {part}")
    # Debian has the licence in /usr/share/common-licenses.
    check_links(root / "usr/share/doc/crossgate", REPOSITORY_ONLY | {"LICENSE"})


def installed_scripts(directory):
    """The shipped rules with their cases and data, below the directory of the documents."""
    files = [path for path in (ROOT / "scripts").rglob("*") if path.is_file()]
    return [f"{directory}/{path.relative_to(ROOT)}" for path in sorted(files)]


def check_links(directory, absent):
    """Links of installed pages lead to installed files, except to those in `absent`."""
    for page in directory.rglob("*.md"):
        text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
        targets = {os.path.relpath(page.parent / target, directory) for target in LINK.findall(text)} - absent
        dead = sorted(target for target in targets if not (directory / target).exists())
        expect(not dead, f"{page.relative_to(directory)} links to {dead}, which are not installed")


def user(root):
    return next((line.split(":") for line in (root / "etc/passwd").read_text().splitlines() if line.startswith("crossgate:")), None)


def check_service(root, binary, config):
    """Runs the installed binary with the installed configuration as the installed user, on other ports, because those may be taken."""
    run("chroot", root, f"/{binary}", "check", f"/{config}")
    text = (root / config).read_text()
    data, admin, api = (processes.free_port() for _ in range(3))
    for old, new in (("0.0.0.0:8080", f"127.0.0.1:{data}"), ("127.0.0.1:9900", f"127.0.0.1:{admin}"), ("127.0.0.1:9001", f"127.0.0.1:{api}")):
        expect(text.count(old) == 1, f"the first configuration has no {old}")
        text = text.replace(old, new)
    (root / "tmp/crossgate.yaml").write_text(text)
    account = user(root)
    enter = ["chroot", f"--userspec={account[2]}:{account[3]}", str(root), f"/{binary}"]
    upstream = [*enter, "demo-upstream", "--listen", f"127.0.0.1:{api}", "--pages", f"127.0.0.1:{processes.free_port()}"]
    gateway = [*enter, "run", "--config", "/tmp/crossgate.yaml"]
    with contextlib.ExitStack() as servers:
        servers.enter_context(processes.Running("the demo API", upstream, api, root / "tmp/upstream.log"))
        servers.enter_context(processes.Running("the gateway", gateway, admin, root / "tmp/gateway.log"))
        expect(ask(admin, "/readyz")[0] == 200, "the gateway is not ready")
        status, allowed = ask(data, "/orders", {"Host": HOST, "Origin": ALLOWED})
        expect((status, allowed) == (200, ALLOWED), f"the allowed origin got {status} for {allowed}")
        status, allowed = ask(data, "/orders", {"Host": HOST, "Origin": "https://evil.example"})
        expect((status, allowed) == (403, None), f"another origin got {status} for {allowed}")
    for name in ("crossgate.yaml", "upstream.log", "gateway.log"):
        (root / "tmp" / name).unlink()


def ask(port, path, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers=headers or {})
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status, response.getheader("Access-Control-Allow-Origin")


def check_upgrade(root, deb):
    """An upgrade keeps the operator's configuration and, under systemd, hands the sockets over instead of stopping the process."""
    (root / CONFIG).write_text((root / CONFIG).read_text() + "# changed\n")
    with systemd(root) as calls:
        dpkg(root, "--install", deb)
        expect((root / CONFIG).read_text().endswith("# changed\n"), "an upgrade replaced the operator's configuration")
        asked = calls()
        expect("kill --kill-whom=main --signal=SIGUSR2 crossgate.service" in asked, f"an upgrade asked systemd for {asked}")
        expect("--system daemon-reload" in asked, f"an upgrade asked systemd for {asked}")
        expect(not any(re.search(r"\b(start|stop|restart|enable)\b", call) for call in asked), f"an upgrade asked systemd for {asked}")
        dpkg(root, "--remove", "crossgate")
        asked = calls()
        expect(any(re.search(r"\bstop crossgate\.service", call) for call in asked), f"a removal asked systemd for {asked}")


@contextlib.contextmanager
def systemd(root):
    """A stub of systemd for the package's scripts, which records its calls."""
    stub, log, running = root / "usr/bin/systemctl", root / "run/systemctl.log", root / "run/systemd/system"
    expect(not stub.exists(), "systemctl is in the root")
    stub.write_text(STUB)
    stub.chmod(0o755)
    running.mkdir(parents=True)

    def calls():
        asked = log.read_text().splitlines()
        log.unlink()
        return asked

    yield calls
    log.unlink(missing_ok=True)
    stub.unlink()
    shutil.rmtree(root / "run/systemd")


def check_purge(root, deb, before):
    expect(not (root / "usr/bin/crossgate").exists(), "the binary exists after the removal")
    expect((root / CONFIG).is_file() and user(root), "a removal deleted the configuration or the user")
    logs = [root / "var/log/crossgate", root / "var/log/private/crossgate"]
    for directory in logs:
        directory.mkdir(parents=True)
        (directory / "access.log").touch()
    dpkg(root, "--purge", "crossgate")
    check_nothing_left(root, before)
    expect(not any(directory.exists() for directory in logs), "a purge leaves logs")
    # Files that an operator added stay, and no other user can read them.
    dpkg(root, "--install", deb)
    key = root / "etc/crossgate/tls/api.key"
    key.parent.mkdir()
    key.write_text("a key")
    dpkg(root, "--purge", "crossgate")
    expect(key.is_file() and not (root / CONFIG).exists() and user(root), "a purge deleted an operator's key, or the user of the key")
    shutil.rmtree(root / "etc/crossgate")
    dpkg(root, "--install", deb)
    dpkg(root, "--purge", "crossgate")
    check_nothing_left(root, before)


def check_nothing_left(root, before):
    after = tree(root)
    differing = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    expect(not differing, f"a purge leaves, deletes or changes {differing}")


def check_tarball(root, tarball):
    """Unpacked into /usr/local, the tarball has the binary that the unit starts."""
    prefix = root / "usr/local"
    with tarfile.open(tarball) as archive:
        members = archive.getmembers()
        expect({(member.uid, member.gid, member.mode & 0o022) for member in members} == {(0, 0, 0)}, "other users than root can change files of the tarball")
    tops = {member.name.split("/")[0] for member in members}
    expect(tops == {tarball.name.removesuffix(".tar.gz")}, f"the tarball has {tops} at its top")
    run("tar", "--extract", "--file", tarball, "--directory", prefix, "--strip-components", "1")
    added = {path.name for path in prefix.iterdir() if any(member.name.split("/")[1:2] == [path.name] for member in members)}
    expect(added == {"bin", "lib", "share"}, f"the tarball adds {sorted(added)} to a prefix")
    unit = (prefix / "lib/systemd/system/crossgate.service").read_text()
    expect("ExecStart=/usr/local/bin/crossgate run --config /etc/crossgate/crossgate.yaml" in unit, "the unit starts another binary")
    documents = prefix / "share/doc/crossgate"
    for name in ("LICENSE", "THIRD-PARTY.txt", "docs/operations/runbook.md", "examples/config/first.yaml", *installed_scripts(".")):
        expect((documents / name).is_file(), f"the tarball has no {name}")
    check_links(documents, REPOSITORY_ONLY)
    run("chroot", root, "/usr/local/bin/crossgate", "check", "/usr/local/share/doc/crossgate/examples/config/first.yaml")


if __name__ == "__main__":
    main()
