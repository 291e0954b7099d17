"""The compared servers, their configurations with the same CORS policy, and their commands.

Every engine serves one listener on one thread, in front of the same upstream, over kept connections. With a log, every engine writes
one JSON line for each request into a file, with about the same fields and with its own buffering. The policy has the listed origins, GET and PUT, `authorization` and `content-type`, credentials, and a max-age of 600 seconds. A preflight is
answered without the upstream. A preflight of an unlisted origin is refused or gets no CORS header, depending on the engine. A tenant is
the closest concept of the engine: a tenant, a server block, a virtual host, or a map entry. If an engine has a hash table or tree for a
lookup, that is used, even if its documentation shows a list or an expression first. Only Crossgate also counts requests by tenant and
origin, writes `X-Forwarded-*` and a request id, and removes the upstream's own CORS headers.
"""

import json
import pathlib
import subprocess

from processes import first_line

HEADERS = "authorization,content-type"
METHODS = "GET,PUT"
# The work without the upstream.
PREFLIGHTS = ("preflight", "denied", "handshake")
SMALL_LEN = 128
# More requests than a run sends over one connection, for engines with a limit.
REQUESTS_MAX = 1_000_000


# What clients speak: HTTP/1.1 in clear text, HTTP/1.1 over TLS, or HTTP/2 over TLS.
TRANSPORTS = {"clear": "", "tls": ", TLS", "h2": ", HTTP/2 over TLS"}


class Setup:
    """The size of a configuration, `origins` of `kind` ("exact" or "wildcard") for each of `tenants`, and how clients use it."""

    def __init__(self, kind="exact", origins=1, tenants=1, transport="clear", has_log=False, has_tls_upstream=False):
        self.kind, self.origins, self.tenants = kind, origins, tenants
        self.transport, self.has_log, self.has_tls_upstream = transport, has_log, has_tls_upstream

    def hosts(self):
        return [f"api{n}.test" for n in range(self.tenants)]

    def names(self):
        """The host of every configured origin. A wildcard entry adds `*.` in front."""
        return [f"o{n}.example" for n in range(self.origins)]

    def title(self):
        size = f"{self.origins:,} {self.kind}, {self.tenants:,} tenant{'s' if self.tenants > 1 else ''}"
        upstream = ", upstream over TLS" if self.has_tls_upstream else ""
        return f"{size}{TRANSPORTS[self.transport]}{upstream}{', access log' if self.has_log else ''}"

    def is_tls(self):
        return self.transport != "clear"

    def is_plain(self):
        """Whether there is neither TLS nor a log."""
        return not (self.is_tls() or self.has_tls_upstream or self.has_log)


class Engine:
    name = ""
    binary = ""
    has_policy = True
    has_tls = True
    denied_status = 403

    def __init__(self, directory, port, upstreams, certificate):
        """`upstreams` are the address of the upstream and the one where it speaks TLS, `certificate` the paths of a certificate and its key."""
        self.directory, self.port, self.upstreams, self.certificate = pathlib.Path(directory), port, upstreams, certificate
        self.directory.mkdir(parents=True, exist_ok=True)
        self.log = self.directory / "access.log"

    def upstream_of(self, setup):
        return self.upstreams[1 if setup.has_tls_upstream else 0]

    def serves(self, kind, setup):
        """Whether the engine can do this work."""
        return (self.has_policy or kind not in PREFLIGHTS) and (self.has_tls or setup.is_plain())

    def write(self, name, text):
        path = self.directory / name
        path.write_text(text)
        return path

    def command(self, setup):
        raise NotImplementedError

    def version(self):
        return first_line(self.binary, "--version")


class Crossgate(Engine):
    name = "crossgate"

    def command(self, setup):
        star = "*." if setup.kind == "wildcard" else ""
        policy = {
            "allowOrigins": [f"https://{star}{name}" for name in setup.names()],
            "allowMethods": METHODS.split(","),
            "allowHeaders": HEADERS.split(","),
            "allowCredentials": True,
        }
        certificate, key = self.certificate
        tls = {"certificates": [{"certificate": certificate, "key": key}]}
        upstream_tls = {"tls": {"serverName": "api0.test", "ca": certificate}, "protocol": "Http1"}
        config = {
            "version": 1,
            "listeners": [{"address": f"127.0.0.1:{self.port}", **({"tls": tls} if setup.is_tls() else {})}],
            "runtime": {"threads": 1},
            "accessLog": {"path": str(self.log)} if setup.has_log else {"level": "Off"},
            "limits": {"keepAliveRequests": REQUESTS_MAX},
            "upstreams": {"u": {"servers": [self.upstream_of(setup)], **(upstream_tls if setup.has_tls_upstream else {})}},
            "policies": {"p": policy},
            "tenants": [{"id": f"t{n}", "hosts": [host], "upstream": "u", "policy": "p"} for n, host in enumerate(setup.hosts())],
        }
        # JSON is YAML.
        return [self.binary, "run", "--config", str(self.write("crossgate.yaml", json.dumps(config, indent=1)))]


class Pingora(Engine):
    """Pingora with only `upstream_peer`: the cost of proxying without a policy."""

    name = "bare pingora"
    has_policy = False
    has_tls = False

    def command(self, setup):
        return [self.binary, f"127.0.0.1:{self.port}", self.upstream_of(setup)]


def nginx_temporary(directory):
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return " ".join(f"{kind}_temp_path {directory}/{kind};" for kind in kinds)


class Nginx(Engine):
    name = "nginx"
    binary = "nginx"

    def command(self, setup):
        self.write("allowed.map", self.allowed(setup))
        self.write("location.conf", self.location(setup))
        tls = {"clear": "", "tls": " ssl", "h2": " ssl http2"}[setup.transport]
        servers = "\n".join(f"server {{ listen 127.0.0.1:{self.port}{tls}{' backlog=4096' if n == 0 else ''}; server_name {host}; "
                            "include location.conf; }" for n, host in enumerate(setup.hosts()))
        certificate, key = self.certificate
        secured = f"ssl_certificate {certificate}; ssl_certificate_key {key};" if setup.is_tls() else ""
        fields = {"time": "$time_iso8601", "request_id": "$request_id", "host": "$host", "method": "$request_method", "path": "$uri",
                  "status": "$status", "duration_ms": "$request_time", "origin": "$http_origin", "client": "$remote_addr",
                  "protocol": "$server_protocol", "upstream": "$upstream_addr"}
        log = f"log_format j escape=json '{json.dumps(fields)}'; access_log {self.log} j;" if setup.has_log else "access_log off;"
        # Buffers for a whole answer of 64 KiB, so that nginx writes no temporary file.
        config = f"""
user root; worker_processes 1; pcre_jit on; daemon off; pid {self.directory}/nginx.pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  {log} {secured} keepalive_requests {REQUESTS_MAX}; server_tokens off; {nginx_temporary(self.directory)}
  map_hash_max_size 262144; map_hash_bucket_size 256; server_names_hash_max_size 262144; server_names_hash_bucket_size 256;
  proxy_buffer_size 16k; proxy_buffers 8 16k; proxy_max_temp_file_size 0;
  include allowed.map;
  map $allowed $lets {{ "" 0; default 1; }}
  map $http_access_control_request_method $names {{ "" 0; default 1; }}
  map $request_method$names$lets $action {{ OPTIONS10 deny; OPTIONS11 allow; default pass; }}
  upstream u {{ server {self.upstream_of(setup)}; keepalive 128; keepalive_requests {REQUESTS_MAX}; }}
{servers}
}}"""
        return ["nginx", "-p", str(self.directory), "-c", str(self.write("nginx.conf", config))]

    def allowed(self, setup):
        """`$allowed` is the origin if it is allowed. Exact origins and wildcards are hash tables. Wildcards match the extracted host."""
        if setup.kind == "exact":
            entries = "\n".join(f'"https://{name}" $http_origin;' for name in setup.names())
            return f'map $http_origin $allowed {{ default ""; {entries} }}'
        entries = "\n".join(f"*.{name} $http_origin;" for name in setup.names())
        return f"""
map $http_origin $origin_host {{ default ""; "~^https://(?<host_part>[a-z0-9.-]+)$" $host_part; }}
map $origin_host $allowed {{ hostnames; default ""; {entries} }}"""

    def location(self, setup):
        scheme = "https" if setup.has_tls_upstream else "http"
        trust = (f"proxy_ssl_trusted_certificate {self.certificate[0]}; proxy_ssl_verify on; proxy_ssl_name api0.test;"
                 if setup.has_tls_upstream else "")
        return f"""
location / {{
  if ($action = deny) {{ add_header Vary Origin always; return 403; }}
  if ($action = allow) {{
    add_header Access-Control-Allow-Origin $allowed; add_header Access-Control-Allow-Credentials true;
    add_header Access-Control-Allow-Methods {METHODS}; add_header Access-Control-Allow-Headers {HEADERS};
    add_header Access-Control-Max-Age 600; add_header Vary Origin;
    return 204;
  }}
  add_header Access-Control-Allow-Origin $allowed always; add_header Access-Control-Allow-Credentials true always;
  add_header Vary Origin always;
  proxy_pass {scheme}://u; {trust} proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
}}"""

    def version(self):
        return first_line("nginx", "-v").replace("nginx version: ", "")


class Haproxy(Engine):
    name = "haproxy"
    binary = "haproxy"

    def command(self, setup):
        if setup.kind == "exact":
            self.write("origins.lst", "\n".join(f"https://{name}" for name in setup.names()) + "\n")
            allowed = f"acl allowed req.hdr(origin) -m str -f {self.directory}/origins.lst"
        else:
            # `hdr_end` would search a list. All domains have two labels, so the last two labels of the origin can be looked up in a tree.
            self.write("origins.lst", "\n".join(setup.names()) + "\n")
            allowed = (f"acl listed req.hdr(origin),field(-1,.,2) -m str -f {self.directory}/origins.lst\n"
                       "  acl https req.hdr(origin) -m beg https://")
        terms = "allowed" if setup.kind == "exact" else "https listed"
        # A map from hosts to backends has the tenants.
        self.write("tenants.map", "".join(f"{host} b\n" for host in setup.hosts()))
        permit = ("hdr Access-Control-Allow-Origin %[var(txn.origin)] hdr Access-Control-Allow-Credentials true "
                  f"hdr Access-Control-Allow-Methods {METHODS} hdr Access-Control-Allow-Headers {HEADERS} "
                  "hdr Access-Control-Max-Age 600 hdr Vary Origin")
        certificate, key = self.certificate
        self.write("pair.pem", pathlib.Path(certificate).read_text() + pathlib.Path(key).read_text())
        bound = {"clear": "", "tls": f" ssl crt {self.directory}/pair.pem", "h2": f" ssl crt {self.directory}/pair.pem alpn h2,http/1.1"}
        trust = f" ssl verify required ca-file {certificate} sni str(api0.test)" if setup.has_tls_upstream else ""
        # HAProxy writes to its standard output, which is a file here.
        fields = {"time": "%[date,utime(%Y-%m-%dT%H:%M:%S)]", "request_id": "%ID", "host": "%[capture.req.hdr(0)]", "method": "%HM",
                  "path": "%HP", "status": "%ST", "duration_ms": "%Ta", "origin": "%[capture.req.hdr(1)]", "client": "%ci",
                  "protocol": "%HV", "upstream": "%s"}
        quoted = json.dumps(fields).replace('"', '\\"').replace(" ", "\\ ")
        log = f"log stdout format raw local0\n  log-format {quoted}" if setup.has_log else ""
        captured = "capture request header Host len 64\n  capture request header Origin len 64" if setup.has_log else ""
        config = f"""
global
  nbthread 1
  maxconn 4000
defaults
  mode http
  {log}
  option http-keep-alive
  timeout client 60s
  timeout server 60s
  timeout connect 3s
  timeout http-request 10s
frontend f
  bind 127.0.0.1:{self.port}{bound[setup.transport]} backlog 4096
  {captured}
  http-request set-var(txn.tenant) req.hdr(host),map_str({self.directory}/tenants.map)
  http-request deny deny_status 421 unless {{ var(txn.tenant) -m found }}
  {allowed}
  http-request set-var(txn.origin) req.hdr(origin) if {terms}
  acl lets var(txn.origin) -m found
  acl names req.hdr(access-control-request-method) -m found
  http-request return status 204 {permit} if METH_OPTIONS names lets
  http-request return status 403 hdr Vary Origin if METH_OPTIONS names
  http-response set-header Access-Control-Allow-Origin %[var(txn.origin)] if lets
  http-response set-header Access-Control-Allow-Credentials true if lets
  http-response add-header Vary Origin
  use_backend %[var(txn.tenant)]
backend b
  http-reuse always
  server u {self.upstream_of(setup)}{trust}
"""
        # `-q` would close the standard output.
        quiet = [] if setup.has_log else ["-q"]
        return ["haproxy", "-db", *quiet, "-f", str(self.write("haproxy.cfg", config))]

    def version(self):
        return first_line("haproxy", "-v").split(" - ")[0]


class Envoy(Engine):
    name = "envoy"
    # Envoy has only this answer to a preflight of an unlisted origin. It has no Access-Control-Allow-Origin.
    denied_status = 200

    def command(self, setup):
        config = {
            "static_resources": {
                "listeners": [{"name": "l", "address": socket_address(f"127.0.0.1:{self.port}"), "filter_chains": [self.chain(setup)]}],
                "clusters": [self.cluster(setup)],
            }
        }
        path = self.write("envoy.json", json.dumps(config))
        return [self.binary, "-c", str(path), "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]

    def chain(self, setup):
        filters = "type.googleapis.com/envoy.extensions.filters.http"
        router = {"@type": f"{filters}.router.v3.Router", "suppress_envoy_headers": True}
        manager = {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "h",
            "generate_request_id": False,
            "route_config": {"virtual_hosts": [self.virtual_host(n, host, setup) for n, host in enumerate(setup.hosts())]},
            "http_filters": [
                {"name": "envoy.filters.http.cors", "typed_config": {"@type": f"{filters}.cors.v3.Cors"}},
                {"name": "envoy.filters.http.router", "typed_config": router},
            ],
        }
        if setup.has_log:
            manager["access_log"] = [self.access_log()]
        chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        if setup.is_tls():
            certificate, key = self.certificate
            pair = {"certificate_chain": {"filename": certificate}, "private_key": {"filename": key}}
            names = ["h2", "http/1.1"] if setup.transport == "h2" else ["http/1.1"]
            chain["transport_socket"] = tls_socket("Downstream", {"common_tls_context": {"tls_certificates": [pair], "alpn_protocols": names}})
        return chain

    def access_log(self):
        fields = {"time": "%START_TIME%", "request_id": "%REQ(X-REQUEST-ID)%", "host": "%REQ(:AUTHORITY)%", "method": "%REQ(:METHOD)%",
                  "path": "%REQ(:PATH)%", "status": "%RESPONSE_CODE%", "duration_ms": "%DURATION%", "origin": "%REQ(ORIGIN)%",
                  "client": "%DOWNSTREAM_REMOTE_ADDRESS%", "protocol": "%PROTOCOL%", "upstream": "%UPSTREAM_HOST%"}
        kind = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
        return {"name": "envoy.access_loggers.file", "typed_config": {"@type": kind, "path": str(self.log), "log_format": {"json_format": fields}}}

    def virtual_host(self, number, host, setup):
        return {
            "name": f"t{number}",
            "domains": [host],
            "typed_per_filter_config": {"envoy.filters.http.cors": self.policy(setup)},
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "u"}}],
        }

    def policy(self, setup):
        """The filter has only lists of matchers, which it searches linearly."""
        key, before = ("exact", "https://") if setup.kind == "exact" else ("suffix", ".")
        return {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
            "allow_origin_string_match": [{key: before + name} for name in setup.names()],
            "allow_methods": METHODS,
            "allow_headers": HEADERS,
            "allow_credentials": True,
            "max_age": "600",
            "forward_not_matching_preflights": False,
        }

    def cluster(self, setup):
        endpoint = {"endpoint": {"address": socket_address(self.upstream_of(setup))}}
        assignment = {"cluster_name": "u", "endpoints": [{"lb_endpoints": [endpoint]}]}
        cluster = {"name": "u", "type": "STATIC", "load_assignment": assignment}
        if setup.has_tls_upstream:
            context = {"validation_context": {"trusted_ca": {"filename": self.certificate[0]}}}
            cluster["transport_socket"] = tls_socket("Upstream", {"common_tls_context": context, "sni": "api0.test"})
        return cluster

    def version(self):
        return "envoy " + first_line(self.binary, "--version").split("/")[-4]


def tls_socket(side, context):
    kind = f"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{side}TlsContext"
    return {"name": "envoy.transport_sockets.tls", "typed_config": {"@type": kind, **context}}


def make_certificate(directory):
    """A certificate that signs itself, and its key, as paths."""
    certificate, key = str(directory / "certificate.pem"), str(directory / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "7", "-subj",
               "/CN=api0.test", "-addext", "subjectAltName=DNS:api0.test", "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", key,
               "-out", certificate]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def socket_address(text):
    host, port = text.rsplit(":", 1)
    return {"socket_address": {"address": host, "port_value": int(port)}}


class Upstream(Engine):
    """The upstream: nginx, next to the load generator. It marks its answers. `upstreams` are its own addresses."""

    name = "upstream"

    def command(self, setup):
        (self.directory / "files").mkdir(exist_ok=True)
        self.write("files/64k", "x" * 65_536)
        config = f"""
user root; worker_processes 1; daemon off; pid {self.directory}/nginx.pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests {REQUESTS_MAX}; {nginx_temporary(self.directory)}
  open_file_cache max=16; sendfile on; tcp_nopush on; root {self.directory}/files; default_type text/plain;
  server {{
    listen 127.0.0.1:{self.port} backlog=4096;
    listen {self.upstreams[1]} ssl backlog=4096;
    ssl_certificate {self.certificate[0]}; ssl_certificate_key {self.certificate[1]};
    location / {{ add_header X-Upstream small; add_header X-Received $content_length; return 200 "{'x' * SMALL_LEN}"; }}
    location /64k {{ add_header X-Upstream 64k; }}
    location = /status {{ stub_status; }}
  }}
}}"""
        return ["nginx", "-p", str(self.directory), "-c", str(self.write("nginx.conf", config))]
