#!/usr/bin/env bash
# Starts the demo upstream and the gateway before it, says where to look, and ends both with Ctrl-C.
# Usage: ops/demo.sh CROSSGATE [https]
# With `https` the gateway speaks TLS too, on port 8443, with a certificate of an authority that is made up for this one run.
set -euo pipefail
cd "$(dirname "$0")/.."

crossgate=$1
with_https=${2:+yes}
config=ops/config/demo.yaml
ports=(3000 8080 9001 9900 ${with_https:+8443})
tls=
upstream=
gateway=

taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

stop() {
    trap - EXIT
    trap '' INT TERM HUP
    for pid in $gateway $upstream; do
        kill "$pid" 2>/dev/null || true
    done
    [ -z "$tls" ] || rm -r "$tls"
    trap - INT TERM HUP
    wait
}

# An authority, a certificate of it for the demo's API, and the demo's configuration with a listener that has that.
prepare_https() {
    tls=$(mktemp -d)
    (
        cd "$tls"
        new_key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
        openssl req -x509 "${new_key[@]}" -days 30 -subj '/CN=Crossgate demo, made up for one run' -keyout ca.key -out ca.pem
        openssl req "${new_key[@]}" -subj /CN=api.acme.localhost -keyout api.key -out api.csr
        printf 'subjectAltName=DNS:api.acme.localhost\n' >api.ext
        openssl x509 -req -in api.csr -days 30 -CA ca.pem -CAkey ca.key -CAcreateserial -extfile api.ext -out api.pem
        # Nobody needs it any more, and a browser may be told to trust it.
        rm ca.key
    ) 2>"$tls/openssl.log" || { cat "$tls/openssl.log" >&2; return 1; }
    sed -e "s|^  - address: 127.0.0.1:8080\$|&\n  - { address: 127.0.0.1:8443, tls: { certificates: [{ certificate: api.pem, key: api.key }] } }|" \
        -e "s|\.\./\.\./scripts|$PWD/scripts|" "$config" >"$tls/demo.yaml"
    config=$tls/demo.yaml
}

for port in "${ports[@]}"; do
    if taken "$port"; then
        echo "port $port is taken on 127.0.0.1; the demo needs ${ports[*]}: end what uses it and try again" >&2
        exit 1
    fi
done

trap stop EXIT
trap 'exit 0' INT TERM HUP
[ -z "$with_https" ] || prepare_https
# Each in a process group of its own: Ctrl-C reaches this script alone, which ends both once.
set -m
"$crossgate" demo-upstream --rule scripts/demo.rhai &
upstream=$!
"$crossgate" run --config "$config" &
gateway=$!

for port in "${ports[@]}"; do
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
if [ -n "$with_https" ]; then
    cat <<EOF
  Over https, with a certificate of an authority that is $tls/ca.pem:
    curl -si --cacert $tls/ca.pem --resolve api.acme.localhost:8443:127.0.0.1 \\
      -H 'Origin: http://app.acme.localhost:3000' https://api.acme.localhost:8443/orders

  In a browser, open https://api.acme.localhost:8443/orders once and accept the certificate (or import the authority), then

    http://app.acme.localhost:3000/?api=https://api.acme.localhost:8443

  Copy other files over $tls/api.pem and api.key: new connections get them within a second.

EOF
fi

# Whichever ends first ends the demo, with its exit code.
wait -n "$upstream" "$gateway"
