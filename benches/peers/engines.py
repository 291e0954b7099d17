"""The servers that are compared, each configured to the same CORS policy, and how to start them.

Every engine serves one listener on one thread, with no access log, before the same upstream, over connections that are kept. The
policy: the listed origins, GET and PUT, `authorization` and `content-type`, credentials, a max-age of 600 seconds; a preflight is
answered without the upstream, and one of a stranger is refused or gets no CORS header, whichever the engine can. Every tenant is what
the engine has for one: a tenant, a server block, a virtual host, or the entry of a map. Where an engine has a table for something,
the table is used, even where its documentation shows a list or an expression first. Crossgate alone also counts requests by tenant
and origin, writes `X-Forwarded-*` and a request id, and removes the upstream's own CORS headers; nobody else is asked to.
"""

import json
import pathlib

from processes import first_line

HEADERS = "authorization,content-type"
METHODS = "GET,PUT"
SMALL_LEN = 128
# More than a run sends over one connection, for engines that count them.
REQUESTS_MAX = 1_000_000


class Setup:
    """What is configured: `origins` of `kind` ("exact" or "wildcard") for each of `tenants`."""

    def __init__(self, kind="exact", origins=1, tenants=1):
        self.kind, self.origins, self.tenants = kind, origins, tenants

    def hosts(self):
        return [f"api{n}.test" for n in range(self.tenants)]

    def names(self):
        """The host part of every configured origin: whole, or what a wildcard's star stands before."""
        return [f"o{n}.example" for n in range(self.origins)]

    def title(self):
        return f"{self.origins:,} {self.kind}, {self.tenants:,} tenant{'s' if self.tenants > 1 else ''}"


class Engine:
    name = ""
    binary = ""
    has_policy = True
    denied_status = 403

    def __init__(self, directory, port, upstream):
        self.directory, self.port, self.upstream = pathlib.Path(directory), port, upstream
        self.directory.mkdir(parents=True, exist_ok=True)

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
        config = {
            "version": 1,
            "listeners": [{"address": f"127.0.0.1:{self.port}"}],
            "runtime": {"threads": 1},
            "accessLog": {"level": "Off"},
            "limits": {"keepAliveRequests": REQUESTS_MAX},
            "upstreams": {"u": {"servers": [self.upstream]}},
            "policies": {"p": policy},
            "tenants": [{"id": f"t{n}", "hosts": [host], "upstream": "u", "policy": "p"} for n, host in enumerate(setup.hosts())],
        }
        # JSON is YAML.
        return [self.binary, "run", "--config", str(self.write("crossgate.yaml", json.dumps(config, indent=1)))]


class Pingora(Engine):
    """Pingora with `upstream_peer` alone: what proxying costs without any policy."""

    name = "bare pingora"
    has_policy = False

    def command(self, setup):
        return [self.binary, f"127.0.0.1:{self.port}", self.upstream]


def nginx_temporary(directory):
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return " ".join(f"{kind}_temp_path {directory}/{kind};" for kind in kinds)


class Nginx(Engine):
    name = "nginx"
    binary = "nginx"

    def command(self, setup):
        self.write("allowed.map", self.allowed(setup))
        self.write("location.conf", self.location())
        servers = "\n".join(f"server {{ listen 127.0.0.1:{self.port} backlog=4096; server_name {host}; include location.conf; }}"
                            if n == 0 else f"server {{ listen 127.0.0.1:{self.port}; server_name {host}; include location.conf; }}"
                            for n, host in enumerate(setup.hosts()))
        # Buffers for a whole answer of 64 KiB, so that none goes through a file.
        config = f"""
user root; worker_processes 1; pcre_jit on; daemon off; pid {self.directory}/nginx.pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests {REQUESTS_MAX}; server_tokens off; {nginx_temporary(self.directory)}
  map_hash_max_size 262144; map_hash_bucket_size 256; server_names_hash_max_size 262144; server_names_hash_bucket_size 256;
  proxy_buffer_size 16k; proxy_buffers 8 16k; proxy_max_temp_file_size 0;
  include allowed.map;
  map $allowed $lets {{ "" 0; default 1; }}
  map $http_access_control_request_method $names {{ "" 0; default 1; }}
  map $request_method$names$lets $action {{ OPTIONS10 deny; OPTIONS11 allow; default pass; }}
  upstream u {{ server {self.upstream}; keepalive 128; keepalive_requests {REQUESTS_MAX}; }}
{servers}
}}"""
        return ["nginx", "-p", str(self.directory), "-c", str(self.write("nginx.conf", config))]

    def allowed(self, setup):
        """`$allowed` is the origin if it is allowed. Both are tables: wildcards as those of host names, for the host taken out."""
        if setup.kind == "exact":
            entries = "\n".join(f'"https://{name}" $http_origin;' for name in setup.names())
            return f'map $http_origin $allowed {{ default ""; {entries} }}'
        entries = "\n".join(f"*.{name} $http_origin;" for name in setup.names())
        return f"""
map $http_origin $origin_host {{ default ""; "~^https://(?<host_part>[a-z0-9.-]+)$" $host_part; }}
map $origin_host $allowed {{ hostnames; default ""; {entries} }}"""

    def location(self):
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
  proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
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
            # `hdr_end` would walk a list. All the domains have two labels, so those of the origin can be looked up in a tree.
            self.write("origins.lst", "\n".join(setup.names()) + "\n")
            allowed = (f"acl listed req.hdr(origin),field(-1,.,2) -m str -f {self.directory}/origins.lst\n"
                       "  acl https req.hdr(origin) -m beg https://")
        terms = "allowed" if setup.kind == "exact" else "https listed"
        # A tenant is what its host is mapped to: its backend.
        self.write("tenants.map", "".join(f"{host} b\n" for host in setup.hosts()))
        permit = ("hdr Access-Control-Allow-Origin %[var(txn.origin)] hdr Access-Control-Allow-Credentials true "
                  f"hdr Access-Control-Allow-Methods {METHODS} hdr Access-Control-Allow-Headers {HEADERS} "
                  "hdr Access-Control-Max-Age 600 hdr Vary Origin")
        config = f"""
global
  nbthread 1
  maxconn 4000
defaults
  mode http
  option http-keep-alive
  timeout client 60s
  timeout server 60s
  timeout connect 3s
  timeout http-request 10s
frontend f
  bind 127.0.0.1:{self.port} backlog 4096
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
  server u {self.upstream}
"""
        return ["haproxy", "-db", "-q", "-f", str(self.write("haproxy.cfg", config))]

    def version(self):
        return first_line("haproxy", "-v").split(" - ")[0]


class Envoy(Engine):
    name = "envoy"
    # There is no other answer to a preflight of a stranger than this one, which names no allowed origin.
    denied_status = 200

    def command(self, setup):
        config = {
            "static_resources": {
                "listeners": [{"name": "l", "address": socket_address(f"127.0.0.1:{self.port}"), "filter_chains": [self.chain(setup)]}],
                "clusters": [self.cluster()],
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
        return {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}

    def virtual_host(self, number, host, setup):
        return {
            "name": f"t{number}",
            "domains": [host],
            "typed_per_filter_config": {"envoy.filters.http.cors": self.policy(setup)},
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "u"}}],
        }

    def policy(self, setup):
        """The filter knows lists of matchers only, and walks them."""
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

    def cluster(self):
        endpoint = {"endpoint": {"address": socket_address(self.upstream)}}
        assignment = {"cluster_name": "u", "endpoints": [{"lb_endpoints": [endpoint]}]}
        return {"name": "u", "type": "STATIC", "load_assignment": assignment}

    def version(self):
        return "envoy " + first_line(self.binary, "--version").split("/")[-4]


def socket_address(text):
    host, port = text.rsplit(":", 1)
    return {"socket_address": {"address": host, "port_value": int(port)}}


class Upstream(Engine):
    """What is proxied to: nginx, beside the load generator. It marks what it answers."""

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
    location / {{ add_header X-Upstream small; add_header X-Received $content_length; return 200 "{'x' * SMALL_LEN}"; }}
    location /64k {{ add_header X-Upstream 64k; }}
    location = /status {{ stub_status; }}
  }}
}}"""
        return ["nginx", "-p", str(self.directory), "-c", str(self.write("nginx.conf", config))]
