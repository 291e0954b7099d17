#!/bin/sh
# Fails if a dependency is not available under one of the permissive licences below, and prints each such dependency.
# deny.toml contains the same list for cargo-deny.
set -eu
cd "$(dirname "$0")/.."

# cargo tree prints one "licence|package" line per package of the lock file, including build and test dependencies.
cargo tree --locked --workspace --all-features --target all --edges normal,build,dev --prefix none --format '{l}|{p}' | sort -u |
awk -F'|' '
BEGIN {
    split("MIT|MIT-0|Apache-2.0|Apache-2.0 WITH LLVM-exception|BSD-2-Clause|BSD-3-Clause|BSD-1-Clause|ISC|Zlib|BSL-1.0|0BSD|Unlicense|CC0-1.0|Unicode-3.0|Unicode-DFS-2016|CDLA-Permissive-2.0", list, "|")
    for (i in list) allowed[list[i]] = 1
}
# "A AND (B OR C)": every part needs one allowed alternative. Ignoring the brackets can only refuse more.
function permitted(expression,    parts, choices, i, j, ok) {
    if (expression == "") return 0
    gsub(/[()]/, "", expression); gsub(/\/| or /, " OR ", expression)
    for (i = split(expression, parts, / AND /); i > 0; i--) {
        ok = 0
        for (j = split(parts[i], choices, / OR /); j > 0; j--) {
            gsub(/^ +| +$/, "", choices[j])
            if (choices[j] in allowed) ok = 1
        }
        if (!ok) return 0
    }
    return 1
}
NF < 2 { next }
{ seen++ }
!permitted($1) { print "not a permissive licence: " $2 " (" ($1 == "" ? "no licence given" : $1) ")"; bad = 1 }
END {
    if (seen < 10) { print "cargo tree listed " seen " packages, expected at least 10"; exit 1 }
    exit bad
}' >&2
