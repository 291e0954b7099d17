"""The servers that are compared, each configured to the same CORS policy, and how to start them.

Every engine serves one listener on one thread, with no access log, before the same upstream. The policy: the listed origins,
GET and PUT, `authorization` and `content-type`, credentials, a max-age of 600 seconds; a preflight is answered without the
upstream, and one of a stranger is refused or gets no CORS header, whichever the engine can.
"""

import json
import pathlib
import subprocess
import sys

HEADERS = "authorization,content-type"
METHODS = "GET,PUT"


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
        raise NotImplementedError


def first_line(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().splitlines()[0]


class Crossgate(Engine):
    name = "crossgate"
    binary = ""

    def command(self, setup):
        star = "*." if setup.kind == "wildcard" else ""
        origins = [f"https://{star}{name}" for name in setup.names()]
        tenants = [{"id": f"t{n}", "hosts": [host], "upstream": "u", "policy": "p"} for n, host in enumerate(setup.hosts())]
        config = {
            "version": 1,
            "listeners": [{"address": f"127.0.0.1:{self.port}"}],
            "runtime": {"threads": 1},
            "accessLog": {"level": "Off"},
            "limits": {"keepAliveRequests": 1000000},
            "upstreams": {"u": {"servers": [self.upstream]}},
            "policies": {
                "p": {
                    "allowOrigins": origins,
                    "allowMethods": METHODS.split(","),
                    "allowHeaders": HEADERS.split(","),
                    "allowCredentials": True,
                }
            },
            "tenants": tenants,
        }
        # JSON is YAML.
        return [self.binary, "run", "--config", str(self.write("crossgate.yaml", json.dumps(config, indent=1)))]

    def version(self):
        return first_line(self.binary, "--version")


class Pingora(Engine):
    """Pingora with `upstream_peer` alone: what proxying costs without any policy."""

    name = "bare pingora"
    binary = ""

    def command(self, setup):
        return [self.binary, f"127.0.0.1:{self.port}", self.upstream]

    def version(self):
        return first_line(self.binary, "--version")


class Nginx(Engine):
    name = "nginx"

    def command(self, setup):
        if setup.kind == "exact":
            entries = [f'"https://{name}" $http_origin;' for name in setup.names()]
        else:
            escaped = [name.replace(".", "\\.") for name in setup.names()]
            entries = [f'"~^https://[a-z0-9.-]+\\.{name}$" $http_origin;' for name in escaped]
        self.write("origins.map", "\n".join(entries))
        hosts = " ".join(setup.hosts())
        config = f"""
user root; worker_processes 1; daemon off; pid {self.directory}/nginx.pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000; server_tokens off;
  map_hash_max_size 262144; map_hash_bucket_size 256; server_names_hash_max_size 262144; server_names_hash_bucket_size 256;
  client_body_temp_path {self.directory}/body; proxy_temp_path {self.directory}/proxy; fastcgi_temp_path {self.directory}/f;
  uwsgi_temp_path {self.directory}/u; scgi_temp_path {self.directory}/s;
  map $http_origin $allowed {{ default ""; include {self.directory}/origins.map; }}
  map "$request_method:$http_access_control_request_method" $asks {{ default no; "~^OPTIONS:." yes; }}
  map "$asks:$allowed" $action {{ default pass; "yes:" deny; "~^yes:." allow; }}
  upstream u {{ server {self.upstream}; keepalive 128; keepalive_requests 1000000; }}
  server {{
    listen 127.0.0.1:{self.port} backlog=4096; server_name {hosts};
    location / {{
      if ($action = deny) {{ return 403; }}
      if ($action = allow) {{
        add_header Access-Control-Allow-Origin $allowed; add_header Access-Control-Allow-Credentials true;
        add_header Access-Control-Allow-Methods {METHODS}; add_header Access-Control-Allow-Headers {HEADERS};
        add_header Access-Control-Max-Age 600; add_header Vary Origin;
        return 204;
      }}
      add_header Access-Control-Allow-Origin $allowed always; add_header Access-Control-Allow-Credentials true always;
      add_header Vary Origin always;
      proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
    }}
  }}
}}"""
        return ["nginx", "-p", str(self.directory), "-c", str(self.write("nginx.conf", config))]

    def version(self):
        return first_line("nginx", "-v").replace("nginx version: ", "")


class Haproxy(Engine):
    name = "haproxy"

    def command(self, setup):
        if setup.kind == "exact":
            self.write("origins.lst", "\n".join(f"https://{name}" for name in setup.names()) + "\n")
            match = "hdr(origin) -f"
        else:
            self.write("origins.lst", "\n".join(f".{name}" for name in setup.names()) + "\n")
            match = "hdr_end(origin) -f"
        self.write("hosts.lst", "\n".join(setup.hosts()) + "\n")
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
  bind 127.0.0.1:{self.port}
  acl known hdr(host) -f {self.directory}/hosts.lst
  http-request deny deny_status 421 unless known
  acl allowed {match} {self.directory}/origins.lst
  acl asks method OPTIONS
  http-request set-var(txn.origin) req.hdr(origin) if allowed
  acl lets var(txn.origin) -m found
  acl names req.hdr(access-control-request-method) -m found
  http-request return status 204 hdr Access-Control-Allow-Origin "%[var(txn.origin)]" hdr Access-Control-Allow-Credentials true hdr Access-Control-Allow-Methods {METHODS} hdr Access-Control-Allow-Headers {HEADERS} hdr Access-Control-Max-Age 600 hdr Vary Origin if asks names lets
  http-request return status 403 hdr Vary Origin if asks names
  http-response set-header Access-Control-Allow-Origin "%[var(txn.origin)]" if lets
  http-response set-header Access-Control-Allow-Credentials true if lets
  http-response add-header Vary Origin
  default_backend b
backend b
  http-reuse always
  server u {self.upstream}
"""
        return ["haproxy", "-db", "-q", "-f", str(self.write("haproxy.cfg", config))]

    def version(self):
        return first_line("haproxy", "-v").split(" - ")[0]


class Envoy(Engine):
    name = "envoy"
    binary = ""

    def command(self, setup):
        key = "exact" if setup.kind == "exact" else "suffix"
        before = "https://" if setup.kind == "exact" else "."
        cors = {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy",
            "allow_origin_string_match": [{key: before + name} for name in setup.names()],
            "allow_methods": METHODS,
            "allow_headers": HEADERS,
            "allow_credentials": True,
            "max_age": "600",
            "forward_not_matching_preflights": False,
        }
        # One virtual host with all names: what a control plane makes of tenants that share a policy.
        host = {
            "name": "v",
            "domains": setup.hosts(),
            "typed_per_filter_config": {"envoy.filters.http.cors": cors},
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "u"}}],
        }
        filters = "type.googleapis.com/envoy.extensions.filters.http"
        manager = {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "h",
            "generate_request_id": False,
            "route_config": {"virtual_hosts": [host]},
            "http_filters": [
                {"name": "envoy.filters.http.cors", "typed_config": {"@type": f"{filters}.cors.v3.Cors"}},
                {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{filters}.router.v3.Router"}},
            ],
        }
        chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        config = {
            "static_resources": {
                "listeners": [{"name": "l", "address": socket_address(f"127.0.0.1:{self.port}"), "filter_chains": [chain]}],
                "clusters": [
                    {
                        "name": "u",
                        "type": "STATIC",
                        "load_assignment": {
                            "cluster_name": "u",
                            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address(self.upstream)}}]}],
                        },
                    }
                ],
            }
        }
        path = self.write("envoy.json", json.dumps(config))
        return [self.binary, "-c", str(path), "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]

    def version(self):
        return "envoy " + first_line(self.binary, "--version").split("/")[1]


def socket_address(text):
    host, port = text.rsplit(":", 1)
    return {"socket_address": {"address": host, "port_value": int(port)}}


class Upstream(Engine):
    """What is proxied to: nginx, beside the load generator."""

    name = "upstream"

    def command(self, setup):
        (self.directory / "files").mkdir(exist_ok=True)
        self.write("files/64k", "x" * 65536)
        config = f"""
user root; worker_processes 1; daemon off; pid {self.directory}/nginx.pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000; client_body_temp_path {self.directory}/body; proxy_temp_path {self.directory}/p;
  fastcgi_temp_path {self.directory}/f; uwsgi_temp_path {self.directory}/u; scgi_temp_path {self.directory}/s;
  open_file_cache max=16; sendfile on; tcp_nopush on; root {self.directory}/files;
  server {{
    listen 127.0.0.1:{self.port} backlog=4096;
    location / {{ default_type text/plain; return 200 "{'x' * 128}"; }}
    location /64k {{ default_type text/plain; }}
  }}
}}"""
        return ["nginx", "-p", str(self.directory), "-c", str(self.write("nginx.conf", config))]


if __name__ == "__main__":
    sys.exit("run by run.py")
