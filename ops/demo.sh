#!/usr/bin/env bash
# Starts the demo upstream and the gateway in front of it, prints the URLs to open, and stops both on Ctrl-C.
# Usage: ops/demo.sh CROSSGATE [https]
# With `https` the gateway also serves TLS, with a certificate of an authority that the script creates for this run.
# Ports, all on loopback: PORT (the gateway, 8080), PAGE_PORT (the page, 3000), ADMIN_PORT (metrics and explain, 9900),
# UPSTREAM_PORT (the API itself, 9001) and HTTPS_PORT (8443).
set -euo pipefail
cd "$(dirname "$0")/.."

crossgate=$1
with_https=${2:+yes}
config=ops/config/demo.yaml
names=(PORT PAGE_PORT ADMIN_PORT UPSTREAM_PORT ${with_https:+HTTPS_PORT})
: "${PORT:=8080}" "${PAGE_PORT:=3000}" "${ADMIN_PORT:=9900}" "${UPSTREAM_PORT:=9001}" "${HTTPS_PORT:=8443}"
make_target=run${with_https:+-https}
state=
upstream=
gateway=
log=

fail() {
    echo "$*" >&2
    exit 1
}

# Browsers resolve *.localhost to [::1] and 127.0.0.1, and may use either.
taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null || (exec 3<>"/dev/tcp/::1/$1") 2>/dev/null; }

chosen() {
    local name
    for name in "${names[@]}"; do
        [ "${!name}" != "$1" ] || return 0
    done
    return 1
}

check_ports() {
    local name other free
    for name in "${names[@]}"; do
        [[ ${!name} =~ ^[1-9][0-9]{0,4}$ ]] && [ "${!name}" -le 65535 ] ||
            fail "$name=${!name} is not a port: a number from 1 to 65535 is accepted"
        for other in "${names[@]}"; do
            [ "$name" = "$other" ] || [ "${!name}" != "${!other}" ] || fail "$name and $other are both ${!name}: set different ports"
        done
    done
    for name in "${names[@]}"; do
        taken "${!name}" || continue
        free=${!name}
        while taken "$free" || chosen "$free"; do free=$((free % 65535 + 1)); done
        fail "port ${!name} is taken: set $name to a free port, for example \`make $make_target $name=$free\`"
    done
}

stop() {
    trap - EXIT
    trap '' INT TERM HUP
    # Suppresses the shell's messages about ended jobs, which may come at any time from here on.
    exec 2>/dev/null
    for pid in $log $gateway $upstream; do
        kill "$pid" || true
    done
    wait
    [ -z "$state" ] || rm -r "$state"
}

# Creates an authority, and its certificate for the demo API.
make_certificate() {
    (
        cd "$state"
        new_key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
        openssl req -x509 "${new_key[@]}" -days 30 -subj '/CN=Crossgate demo, one run' -keyout ca.key -out ca.pem
        openssl req "${new_key[@]}" -subj /CN=api.acme.localhost -keyout api.key -out api.csr
        printf 'subjectAltName=DNS:api.acme.localhost\n' >api.ext
        openssl x509 -req -in api.csr -days 30 -CA ca.pem -CAkey ca.key -CAcreateserial -extfile api.ext -out api.pem
        # A browser may trust the authority, so its key must not outlive this script.
        rm ca.key
    ) 2>"$state/openssl.log" || { cat "$state/openssl.log" >&2; return 1; }
}

# Uses the demo configuration itself, so that edits take effect, or a copy if ports or TLS differ.
prepare_config() {
    [ -n "$with_https" ] || [ "$PORT $PAGE_PORT $ADMIN_PORT $UPSTREAM_PORT" != "8080 3000 9900 9001" ] || return 0
    local https=
    if [ -n "$with_https" ]; then
        make_certificate
        https="\\n  - { address: 127.0.0.1:$HTTPS_PORT, tls: { certificates: [{ certificate: api.pem, key: api.key }] } }"
    fi
    sed -e "s|^  - address: .*|  - address: 127.0.0.1:$PORT$https|" -e "s|^admin: .*|admin: { address: 127.0.0.1:$ADMIN_PORT }|" \
        -e "s|^  demo: .*|  demo: { servers: [127.0.0.1:$UPSTREAM_PORT] }|" -e "s|localhost:3000|localhost:$PAGE_PORT|g" \
        -e "s|\.\./\.\./scripts|$PWD/scripts|" "$config" >"$state/demo.yaml"
    config=$state/demo.yaml
}

check_ports
state=$(mktemp -d)
trap stop EXIT
trap 'exit 0' INT TERM HUP
prepare_config
pages=(--pages "127.0.0.1:$PAGE_PORT")
[ ! -e /proc/net/if_inet6 ] || ! grep -q '^0\{31\}1 ' /proc/net/if_inet6 || pages+=(--pages "[::1]:$PAGE_PORT")
# Each in its own process group: Ctrl-C reaches only this script, which stops both once.
set -m
"$crossgate" demo-upstream --listen "127.0.0.1:$UPSTREAM_PORT" "${pages[@]}" --gateway "http://api.acme.localhost:$PORT" \
    --admin "127.0.0.1:$ADMIN_PORT" --config "$config" --rule scripts/demo.rhai >"$state/upstream.log" 2>&1 &
upstream=$!
"$crossgate" run --config "$config" >"$state/access.log" 2>"$state/gateway.log" &
gateway=$!

for name in "${names[@]}"; do
    until taken "${!name}"; do
        kill -0 "$upstream" 2>/dev/null && kill -0 "$gateway" 2>/dev/null || { cat "$state/upstream.log" "$state/gateway.log" >&2; exit 1; }
        sleep 0.1
    done
done

cat <<EOT

  Open http://app.acme.localhost:$PAGE_PORT (allowed) and http://evil.localhost:$PAGE_PORT (denied). Ctrl-C ends the demo.

  To edit while it runs: $config (the list of origins) and scripts/demo.rhai (the rule).
  Metrics: http://127.0.0.1:$ADMIN_PORT/metrics   Access log: $state/access.log
EOT
[ -z "$with_https" ] || cat <<EOT

  Over https, with a certificate of the authority $state/ca.pem:
    curl -si --cacert $state/ca.pem --resolve api.acme.localhost:$HTTPS_PORT:127.0.0.1 \\
      -H 'Origin: http://app.acme.localhost:$PAGE_PORT' https://api.acme.localhost:$HTTPS_PORT/orders
  In a browser, open https://api.acme.localhost:$HTTPS_PORT/orders once and accept the certificate, then
    http://app.acme.localhost:$PAGE_PORT/?api=https://api.acme.localhost:$HTTPS_PORT
EOT
echo

# Shows the lines after the start: reloads, and errors in an edited file.
tail -n "+$(($(wc -l <"$state/gateway.log") + 1))" -f "$state/gateway.log" &
log=$!

# The first process to end stops the demo, with its exit code.
wait -n "$upstream" "$gateway"
