"""Configurations of any size, written as people write them: block YAML with one list item per line."""

import json
import os


class Ports:
    def __init__(self, data, admin, upstream):
        self.data, self.admin, self.upstream = data, admin, upstream


def main_file(ports, rest):
    """The common part of all configurations. The limits do not close connections by age or number of requests."""
    return f"""version: 1
listeners:
  - address: 127.0.0.1:{ports.data}
admin: {{ address: 127.0.0.1:{ports.admin} }}
accessLog: {{ level: Off }}
limits: {{ keepAliveRequests: 1000000, keepAliveIdle: 30m }}
upstreams:
  orders: {{ servers: [127.0.0.1:{ports.upstream}] }}
{rest}"""


POLICY = """policies:
  shared:
    allowMethods: [PUT, DELETE]
    allowHeaders: [authorization, content-type]
    allowCredentials: true
"""


class Tenants:
    """`count` tenants with `origins_each` origins of their own, on one shared policy, in `files` files of a tenants directory."""

    def __init__(self, directory, ports, count, files, origins_each):
        self.directory, self.ports, self.origins_each = directory, ports, origins_each
        self.per_file = -(-count // files)
        self.count, self.files = count, files
        # The replaced first origins of tenants, by their number.
        self.replaced = {}

    def write(self):
        (self.directory / "tenants.d").mkdir(parents=True)
        (self.directory / "incoming").mkdir()
        for file in range(self.files):
            self.path(file).write_text(self.file_text(file))
        main = self.directory / "crossgate.yaml"
        main.write_text(main_file(self.ports, f"{POLICY}tenantsDir: tenants.d\n"))
        return main

    def replace_first_origin(self, tenant, origin):
        """Replaces the tenant's file by a rename from another directory, so that the gateway never reads a partial file."""
        self.replaced[tenant] = origin
        file = tenant // self.per_file
        incoming = self.directory / "incoming" / "file.yaml"
        incoming.write_text(self.file_text(file))
        os.replace(incoming, self.path(file))

    def path(self, file):
        return self.directory / "tenants.d" / f"{file:05}.yaml"

    def file_text(self, file):
        first = file * self.per_file
        return "tenants:\n" + "".join(self.tenant_text(tenant) for tenant in range(first, min(first + self.per_file, self.count)))

    def tenant_text(self, tenant):
        origins = "".join(f'      - "{origin}"\n' for origin in self.origins(tenant))
        return (f"  - id: t{tenant}\n    hosts: [{self.host(tenant)}]\n    upstream: orders\n    policy: shared\n"
                f"    allowOrigins:\n{origins}")

    def origins(self, tenant):
        named = [f"https://app{number}.t{tenant}.example" for number in range(self.origins_each)]
        return [self.replaced.get(tenant, named[0]), *named[1:]]

    def host(self, tenant):
        return f"api.t{tenant}.test"


def one_policy(directory, ports, origins):
    """One tenant whose policy has this many origins."""
    directory.mkdir(parents=True)
    listed = "".join(f"      - {json.dumps(origin(number))}\n" for number in range(origins))
    tenants = "tenants:\n  - { id: one, hosts: [api.test], upstream: orders, policy: shared }\n"
    main = directory / "crossgate.yaml"
    main.write_text(main_file(ports, f"{POLICY}    allowOrigins:\n{listed}{tenants}"))
    return main


def origin(number):
    return f"https://o{number}.example"
