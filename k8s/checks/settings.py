"""Checks of the settings in the chart and in the container files: the binary has settings of these names, and
carillon.toml contains the chart's values."""

import json
import re
import tomllib
from pathlib import Path

import text
from chart import Rendering

ROOT = Path(__file__).resolve().parents[2]
# Settings that are never in a ConfigMap.
SECRETS = {"auth.secret", "auth.previous_secret", "api.keys"}
# Settings that the chart decides. `data_dir` and `dev` have no meaning on a shared installation with read-only pods.
DECIDED = {"listen", "admin_listen", "drain_timeout", "data_dir", "dev"}


def _binary() -> tuple[set[str], set[str]]:
    """The paths and the environment variables of all settings, read from the list in the source of the binary."""
    folder = ROOT / "runtime" / "src" / "settings"
    source = "".join(file.read_text() for file in [folder / "list.rs", *sorted((folder / "list").glob("*.rs"))])
    paths = set(re.findall(r'^\s*path: "([a-z_.*]+)"', source, re.MULTILINE))
    assert {"listen", "nats.url", "limits.connections"} <= paths, f"the list of settings has moved: found {sorted(paths)}"
    aliases = {alias for found in re.findall(r"aliases: &\[([^\]]*)\]", source) for alias in re.findall(r'"(\w+)"', found)}
    return paths, aliases | {"CARILLON_" + path.replace(".", "__").upper() for path in paths}


def _file(rendering: Rendering) -> dict:
    [toml] = {found["data"]["carillon.toml"] for found in rendering.of_kind("ConfigMap")}
    return tomllib.loads(toml)


def _names(table: dict, paths: set[str], above: str = ""):
    for key, value in table.items():
        name = f"{above}{key}"
        if isinstance(value, dict):
            yield from _names(value, paths, f"{name}.")
        else:
            yield f"{above}*" if f"{above}*" in paths else name


def known(rendering: Rendering) -> None:
    """carillon.toml contains only settings that the binary has, and no secrets"""
    paths, _ = _binary()
    unknown = set(_names(_file(rendering), paths)) - (paths - SECRETS)
    assert not unknown, f"unknown: {sorted(unknown)}"


def faithful(rendering: Rendering) -> None:
    """carillon.toml contains exactly the given values"""
    file, values = _file(rendering), rendering.values
    assert file.pop("listen") == "0.0.0.0:8000"
    assert file.pop("drain_timeout") == values.get("drainTimeoutSeconds", 25)
    nats, scylla = file.pop("nats"), file.pop("scylla")
    assert nats == {key: value for key, value in values["nats"].items() if key != "urlSecret"}, nats
    assert scylla == {"keyspace": "carillon"} | values["scylla"], scylla
    assert file == {"log_json": True} | values.get("settings", {}), file


def pod_variables(rendering: Rendering) -> None:
    """every CARILLON_* variable of the pods is a setting of the binary"""
    _, variables = _binary()
    for pod in rendering.pods().values():
        for container in pod["spec"]["containers"]:
            _assert_known({entry["name"] for entry in container.get("env", [])}, variables)


def _assert_known(names: set[str], variables: set[str]) -> None:
    unknown = {name for name in names if name.startswith("CARILLON_")} - variables
    assert not unknown, f"unknown: {sorted(unknown)}"


def schema_is_complete(root: Path) -> None:
    """values.schema.json allows under `settings` all settings that the user may set, and no others"""
    paths, _ = _binary()
    schema = json.loads((root / "k8s" / "carillon" / "values.schema.json").read_text())
    admitted = set(_schema_names(schema["definitions"]["settings"], ""))
    others = {path for path in paths if path.startswith(("nats.", "scylla."))}
    expected = paths - SECRETS - DECIDED - others
    assert admitted == expected, f"missing: {sorted(expected - admitted)}, too many: {sorted(admitted - expected)}"
    for table in ("nats", "scylla"):
        own = {f"{table}.{name}" for name in schema["properties"][table]["properties"] if name != "urlSecret"}
        assert own == {path for path in others if path.startswith(table)}, own


def _schema_names(schema: dict, above: str):
    for key, inner in schema["properties"].items():
        if "properties" in inner:
            yield from _schema_names(inner, f"{above}{key}.")
        elif inner.get("type") == "object":
            yield f"{above}{key}.*"
        else:
            yield above + key


def container_variables(root: Path) -> None:
    """every variable in compose.yaml and in the image is a setting of the binary"""
    _, variables = _binary()
    [compose] = text.documents((root / "deploy" / "compose.yaml").read_text())
    ours = [service for service in compose["services"].values() if service["image"] == "carillon:local"]
    assert len(ours) == 4
    for service in ours:
        unknown = set(service["environment"]) - variables
        assert not unknown, f"unknown: {sorted(unknown)}"
    _assert_known(set(re.findall(r"^ENV (\w+)=", (root / "deploy" / "Dockerfile").read_text(), re.MULTILINE)), variables)


FACTS = [known, faithful, pod_variables]
ROOT_FACTS = [schema_is_complete, container_variables]
