#!/bin/sh
# Packages a built gateway: ops/package/build.sh CROSSGATE OUT [OPTION OF CARGO-DEB]..
# Writes a Debian package and a tarball to OUT. Their files are staged in target/package first: gateway/Cargo.toml lists them
# for cargo-deb, and the tarball unpacks into a prefix such as /usr/local.
set -eu
cd "$(dirname "$0")/../.."

crossgate=$1
out=$2
shift 2
stage=target/package
version=$("$crossgate" --version | cut -d ' ' -f 2)
maintainer=${MAINTAINER:-The Crossgate authors <crossgate@crossgate.invalid>}
# Builds of the same commit and toolchain are identical.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH

completions() {
    mkdir -p "$(dirname "$tree/share/$2")"
    "$crossgate" completions "$1" >"$tree/share/$2"
}

stage_tree() {
    rm -rf "$stage"
    mkdir -p "$stage"
    tree=$stage/tree
    doc=$tree/share/doc/crossgate
    install -D -m 755 "$crossgate" "$tree/bin/crossgate"
    strip --strip-unneeded "$tree/bin/crossgate"
    "$crossgate" manual "$tree/share/man/man1"
    completions bash bash-completion/completions/crossgate
    completions zsh zsh/site-functions/_crossgate
    completions fish fish/vendor_completions.d/crossgate.fish
    install -D -m 644 ops/systemd/crossgate.service "$tree/lib/systemd/system/crossgate.service"
    for file in LICENSE README.md CHANGELOG.md SECURITY.md CONTRIBUTING.md scripts/README.md scripts/*.rhai scripts/*.cases.yaml \
        scripts/data/*.yaml benches/results/*.md benches/results/*.svg; do
        install -D -m 644 "$file" "$doc/$file"
    done
    # Files under ops/ are installed as examples.
    find docs -name '*.md' | while read -r page; do
        mkdir -p "$doc/$(dirname "$page")"
        sed 's|\.\./ops/|../examples/|g' "$page" >"$doc/$page"
        chmod 644 "$doc/$page"
    done
    ops/package/third-party.py >"$doc/THIRD-PARTY.txt"
    for directory in config config/tenants.d prometheus grafana kubernetes; do
        mkdir -p "$doc/examples/$directory"
        find "ops/$directory" -maxdepth 1 -type f -exec install -m 644 -t "$doc/examples/$directory" {} +
    done
}

# The differences of the Debian package: the path of the binary, a copyright file and a changelog.
stage_debian() {
    mkdir -p "$stage/debian/units"
    sed 's|/usr/local/bin|/usr/bin|' ops/systemd/crossgate.service >"$stage/debian/units/crossgate.service"
    {
        printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: crossgate\n\n'
        printf 'Files: *\nCopyright: The Crossgate authors\nLicense: Apache-2.0\n'
        printf ' On Debian systems the text is in /usr/share/common-licenses/Apache-2.0.\n'
        printf 'Comment: The licences of the libraries in the binary are in\n /usr/share/doc/crossgate/THIRD-PARTY.txt.\n'
    } >"$stage/debian/copyright"
    printf 'crossgate (%s-1) unstable; urgency=medium\n\n  * Release %s, see CHANGELOG.md.\n\n -- %s  %s\n' "$version" "$version" \
        "$maintainer" "$(date --utc --rfc-email --date "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$stage/debian/changelog.Debian.gz"
}

stage_tree
stage_debian
mkdir -p "$out"
name=crossgate-$version-linux-$(uname -m)
tar --create --gzip --file "$out/$name.tar.gz" --directory "$stage/tree" --transform "s|^\.|$name|" --sort name \
    --owner 0 --group 0 --numeric-owner --mode u=rwX,go=rX --mtime "@$SOURCE_DATE_EPOCH" .
# Its warnings are only about paths under target/. A failed search for libraries would leave out a dependency, so that is checked here.
deb=$(cargo deb --quiet --locked --no-build --no-strip --compress-system --package crossgate --maintainer "$maintainer" --output "$out" "$@")
dpkg-deb --field "$deb" Depends | grep -q 'libc6' || { echo "$deb does not depend on libc6: dpkg-shlibdeps failed" >&2; exit 1; }
printf '%s\n' "$deb" "$out/$name.tar.gz"
