"""Checks Kubernetes manifests, systemd unit and Containerfile by their schemas, and against each other and the configuration."""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import kubernetes_validate

from binary import read_yaml
from paths import OPS, ROOT
from rules import alerts

KUBERNETES = OPS / "kubernetes"
UNIT = OPS / "systemd" / "crossgate.service"
CONTAINERFILE = OPS / "Containerfile"
TOKEN = "0123456789abcdef"
# The maximum of systemd-analyze is 100; a service without hardening has 96.
EXPOSURE_MAX = 15
STOP_DEFAULTS = {"drainDelay": 0, "grace": 30}
# Time for the last log lines after the grace.
LAST_LINES_SECONDS = 4


def faults(binary):
    found = kubernetes_faults(binary)
    return found + (systemd_faults(binary) if shutil.which("systemd-analyze") else ["systemd-analyze, which checks the unit, is not installed"])


def kubernetes_faults(binary):
    found = []
    by_kind = {}
    for path in sorted(KUBERNETES.glob("*.yaml")):
        for manifest in read_yaml(path):
            found += [f"{path.relative_to(ROOT)}: {fault}" for fault in schema_faults(manifest)]
            by_kind.setdefault(manifest["kind"], []).append(manifest)
    (deployment,), (config_map,) = by_kind["Deployment"], by_kind["ConfigMap"]
    pod = deployment["spec"]["template"]
    config = config_faults(binary, config_map, pod["spec"])
    return found + config + pod_faults(pod["spec"]) + selector_faults(by_kind, pod)


def schema_faults(manifest):
    try:
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
        return []
    except kubernetes_validate.ValidationError as error:
        return [f"{manifest['kind']} at {'.'.join(map(str, error.path))}: {error.message}"]


def config_faults(binary, config_map, spec):
    """The configuration of the ConfigMap must start in the pod: its file, token file and ports must match the manifest."""
    (container,) = spec["containers"]
    main = pathlib.PurePath(container["args"][container["args"].index("--config") + 1])
    mounts = {mount["name"]: pathlib.PurePath(mount["mountPath"]) for mount in container["volumeMounts"]}
    if mounts["config"] != main.parent or main.name not in config_map["data"]:
        return [f"the pod reads {main}, which the ConfigMap does not contain"]
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        (directory / "admin-token").write_text(TOKEN)
        for name, text in config_map["data"].items():
            (directory / name).write_text(text.replace(str(mounts["admin"]), str(directory)))
        findings = binary.check(directory / main.name)
        config = read_yaml(directory / main.name)[0]
    found = [f"the ConfigMap is invalid: {findings}"] if findings else []
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    opened = {"http": port_of(config["listeners"][0]), "admin": port_of(config["admin"])}
    if ports != opened:
        found.append(f"the container has the ports {ports}, its configuration {opened}")
    grace = spec["terminationGracePeriodSeconds"]
    if grace < stop_seconds(config) + LAST_LINES_SECONDS:
        found.append(f"a pod is killed after {grace} s, but a stop takes {stop_seconds(config)} s and some more")
    (large,) = [alert for alert in alerts() if alert["alert"] == "CrossgateMemoryLarge"]
    memory, threshold = container["resources"]["limits"]["memory"], int(large["expr"].rsplit(">", 1)[1])
    if int(memory.removesuffix("Mi")) * 1024 * 1024 <= threshold:
        found.append(f"a container is killed at {memory}, before CrossgateMemoryLarge fires at {threshold} bytes")
    return found


def port_of(listener):
    return int(listener["address"].rsplit(":", 1)[1])


def stop_seconds(config):
    return sum(seconds(config.get("shutdown", {}).get(key, default)) for key, default in STOP_DEFAULTS.items())


def seconds(duration):
    match = re.fullmatch(r"(\d+)(ms|s|m|h)?", str(duration))
    return int(match.group(1)) * {"ms": 0.001, "s": 1, None: 1, "m": 60, "h": 3600}[match.group(2)]


def pod_faults(spec):
    """The restricted profile of Kubernetes for pods, and a read-only file system."""
    (container,) = spec["containers"]
    security = {**spec["securityContext"], **container["securityContext"]}
    expected = {"runAsNonRoot": True, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                "seccompProfile": {"type": "RuntimeDefault"}, "capabilities": {"drop": ["ALL"]}}
    user = f"USER {spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}"
    return ([f"the pod's security context has {key}: {security.get(key)}, expected {value}" for key, value in expected.items()
             if security.get(key) != value]
            + ([] if user in CONTAINERFILE.read_text().splitlines() else [f"the Containerfile lacks `{user}`, the user of the pod"]))


def selector_faults(by_kind, pod):
    """Every selector must match the pod, and every named port must exist."""
    labels, ports = pod["metadata"]["labels"].items(), {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
    selectors = {f"Service {service['metadata']['name']}": service["spec"]["selector"] for service in by_kind["Service"]}
    selectors["Deployment"] = by_kind["Deployment"][0]["spec"]["selector"]["matchLabels"]
    selectors["PodDisruptionBudget"] = by_kind["PodDisruptionBudget"][0]["spec"]["selector"]["matchLabels"]
    (policy,) = by_kind["NetworkPolicy"]
    selectors["NetworkPolicy"] = policy["spec"]["podSelector"]["matchLabels"]
    named = {port["targetPort"] for service in by_kind["Service"] for port in service["spec"]["ports"]}
    named |= {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
    container = pod["spec"]["containers"][0]
    named |= {container[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    return ([f"{what} does not select the pod" for what, selector in selectors.items() if not selector.items() <= labels]
            + [f"the pod has no port named {port}" for port in sorted(named - ports)])


def systemd_faults(binary):
    with tempfile.TemporaryDirectory() as directory:
        unit = pathlib.Path(directory) / UNIT.name
        unit.write_text(UNIT.read_text().replace("/usr/local/bin/crossgate", str(binary.path)))
        found = []
        for command in (["verify"], ["security", "--offline=true", f"--threshold={EXPOSURE_MAX}"]):
            done = subprocess.run(["systemd-analyze", *command, unit], capture_output=True, text=True, check=False)
            complaints = done.stderr if command == ["verify"] else ""
            if done.returncode or complaints:
                found.append(f"systemd-analyze {' '.join(command)}: {(done.stdout + done.stderr)[-2000:]}")
    values = dict(re.findall(r"^(\w+)=(.*)$", UNIT.read_text(), re.MULTILINE))
    longest = max(stop_seconds(read_yaml(sample)[0]) for sample in (OPS / "config").glob("*.yaml"))
    if seconds(values["TimeoutStopSec"]) < longest + LAST_LINES_SECONDS:
        found.append(f"systemd kills after {values['TimeoutStopSec']}, but a stop of a sample takes {longest} s and some more")
    (many,) = [alert for alert in alerts() if alert["alert"] == "CrossgateConnectionsMany"]
    connections = int(many["expr"].rsplit(">", 1)[1])
    if 2 * connections > int(values["LimitNOFILE"]):
        found.append(f"LimitNOFILE={values['LimitNOFILE']} is reached before CrossgateConnectionsMany fires at {connections}")
    return found
