"""Calls helm to lint and render the chart, and checks that it refuses wrong values with a helpful message."""

import re
import subprocess
from functools import cached_property
from pathlib import Path

import text

# The oldest version that Chart.yaml allows, and the newest one that kubernetes-validate (requirements.txt) has schemas
# for.
KUBERNETES_VERSIONS = ["1.30", "1.37"]

_SECRET = "auth.secret=0123456789abcdef0123456789abcdef"

# (name, the values that are set on top of ci/minimal.yaml, the text that the error must contain)
REFUSALS = [
    ("no address of NATS", ["nats.url="], "nats.url is required"),
    ("no ScyllaDB node", ["scylla.nodes=null"], "scylla.nodes is required"),
    ("no secret", ["auth.existingSecret="], "auth.existingSecret or auth.secret is required"),
    ("two secrets", [_SECRET], "auth.existingSecret excludes auth.secret"),
    ("a short secret", ["auth.existingSecret=", "auth.secret=short"], "/auth/secret"),
    ("an unknown value", ["gatewy.replicas=3"], "additional properties 'gatewy' not allowed"),
    ("an unknown setting", ["settings.limits.mesages_per_minute=3"], "'mesages_per_minute' not allowed"),
    ("a secret among the settings", ["settings.auth.secret=x"], "additional properties 'secret' not allowed"),
    ("a password in the address of NATS", ["nats.url=nats://user:password@nats:4222"], "/nats/url"),
    ("an address of another scheme", ["nats.url=http://nats:4222"], "/nats/url"),
    ("a prefix that is no name", ["nats.prefix=a.b"], "/nats/prefix"),
    ("a node without a port", ["scylla.nodes={scylla}"], "/scylla/nodes/0"),
    ("a number as text", ["gateway.replicas=many"], "/gateway/replicas"),
    ("no pods at all", ["messageWorker.replicas=0"], "/messageWorker/replicas"),
    ("a negative limit", ["settings.limits.connections=-1"], "/settings/limits/connections"),
    ("an ingress without hosts", ["ingress.enabled=true"], "ingress.hosts is required"),
    ("a scale that ends below its start", ["gateway.autoscaling.minReplicas=11"], "minReplicas is above maxReplicas"),
]


class Helm:
    def __init__(self, binary: str, chart: Path) -> None:
        self.binary = binary
        self.chart = chart

    def value_files(self) -> list[Path]:
        files = sorted((self.chart / "ci").glob("*.yaml"))
        assert files, "no value files in ci/"
        return files

    def _run(self, *arguments: str | Path) -> subprocess.CompletedProcess:
        return subprocess.run([self.binary, *map(str, arguments)], capture_output=True, text=True, timeout=60)

    def lint(self, values: Path) -> None:
        done = self._run("lint", "--strict", "--kube-version", KUBERNETES_VERSIONS[0], self.chart, "--values", values)
        assert done.returncode == 0, done.stdout + done.stderr

    def render(self, values: Path, version: str, *more: str) -> list[dict]:
        done = self._run("template", "chime", self.chart, "--kube-version", version, "--values", values, *more)
        assert done.returncode == 0, done.stderr
        return text.documents(done.stdout)

    def refuses(self, settings: list[str], reason: str) -> None:
        sets = [argument for setting in settings for argument in ("--set", setting)]
        minimal = self.chart / "ci" / "minimal.yaml"
        done = self._run("template", "chime", self.chart, "--kube-version", KUBERNETES_VERSIONS[0], "--values", minimal, *sets)
        assert done.returncode != 0, f"rendered in spite of {settings}"
        assert reason in done.stderr, f"expected {reason!r} in: {done.stderr}"


class Rendering:
    """One value file, and the objects that the chart renders from it."""

    def __init__(self, helm: Helm, values: Path) -> None:
        self._helm = helm
        self._file = values

    @cached_property
    def objects(self) -> list[dict]:
        return self._helm.render(self._file, KUBERNETES_VERSIONS[0])

    @cached_property
    def values(self) -> dict:
        return text.documents(self._file.read_text())[0]

    def of_kind(self, kind: str) -> list[dict]:
        return [found for found in self.objects if found["kind"] == kind]

    def pods(self) -> dict[str, dict]:
        """The pod templates, by the name of their workload."""
        workloads = self.of_kind("Deployment") + self.of_kind("Job")
        return {workload["metadata"]["name"]: workload["spec"]["template"] for workload in workloads}


def both_ways(helm: Helm) -> None:
    """Every boolean of values.yaml is true in one file of ci/ and false in another, so every branch is rendered."""
    defaults = text.documents((helm.chart / "values.yaml").read_text())[0]
    seen: dict[str, set] = {}
    for file in helm.value_files():
        given = text.documents(file.read_text())[0]
        for path, default in _switches(defaults, ()):
            value = given
            for part in path:
                value = value.get(part) if isinstance(value, dict) else None
            seen.setdefault(".".join(path), set()).add(default if value is None else value)
    assert len(seen) >= 9, f"only {len(seen)} switches found"
    # The three PodDisruptionBudgets use the same template, so it is enough to switch one of them.
    one_way = {name for name, values in seen.items() if len(values) < 2 and not re.match(r"\w+Worker\.pod", name)}
    assert not one_way, f"never switched: {sorted(one_way)}"


def _switches(table: dict, path: tuple):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _switches(value, (*path, key))
        elif isinstance(value, bool):
            yield (*path, key), value
