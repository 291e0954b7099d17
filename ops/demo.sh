#!/usr/bin/env bash
# Starts the demo upstream and the gateway before it, says where to look, and ends both with Ctrl-C.
# Usage: ops/demo.sh CROSSGATE
set -euo pipefail
cd "$(dirname "$0")/.."

crossgate=$1
config=ops/config/demo.yaml
upstream=
gateway=

taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

stop() {
    trap - EXIT INT TERM HUP
    for pid in $gateway $upstream; do
        kill "$pid" 2>/dev/null || true
    done
    wait
}

for port in 3000 8080 9001 9900; do
    if taken "$port"; then
        echo "port $port is taken on 127.0.0.1; the demo needs 3000, 8080, 9001 and 9900: end what uses it and try again" >&2
        exit 1
    fi
done

trap stop EXIT
trap 'exit 0' INT TERM HUP
# Each in a process group of its own: Ctrl-C reaches this script alone, which ends both once.
set -m
"$crossgate" demo-upstream --rule scripts/demo.rhai &
upstream=$!
"$crossgate" run --config "$config" &
gateway=$!

for port in 3000 8080 9001 9900; do
    until taken "$port"; do
        kill -0 "$upstream" 2>/dev/null && kill -0 "$gateway" 2>/dev/null || exit 1
        sleep 0.1
    done
done

cat <<EOF

  The demo is running. Ctrl-C ends it.

    http://app.acme.localhost:3000     the allowed origin
    http://evil.localhost:3000         the same page, not allowed
    http://127.0.0.1:9900/metrics      what the gateway counted
    http://127.0.0.1:9001/requests     what reached the upstream; OPTIONS stays 0

  Change scripts/demo.rhai, save, and press again: the new rule decides within a second.

  By hand:
    curl -si -X OPTIONS -H 'Host: api.acme.localhost' -H 'Origin: http://app.acme.localhost:3000' \\
      -H 'Access-Control-Request-Method: PUT' localhost:8080/orders
    $crossgate explain --config $config --host api.acme.localhost \\
      --origin http://evil.localhost:3000 --method PUT --path /orders

EOF

# Whichever ends first ends the demo, with its exit code.
wait -n "$upstream" "$gateway"
