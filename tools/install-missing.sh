#!/bin/sh
# Installs missing programs from Debian packages: install-missing.sh PROGRAM=PACKAGE..
# If every program exists, it does nothing and needs neither root nor the network.
set -eu

missing=
for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null 2>&1 || missing="$missing ${pair#*=}"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "missing packages:$missing; apt-get not found: install them by hand" >&2
    exit 1
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "missing packages:$missing; install them as root: apt-get install$missing" >&2
        exit 1
    fi
    as_root=sudo
fi
echo "installing from Debian:$missing" >&2
$as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q
# shellcheck disable=SC2086 # word splitting is intended: one word per package
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
