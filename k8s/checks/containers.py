"""Checks of deploy/: the compose file, the build of the image, and the configuration of the servers."""

import http.server
import os
import re
import shutil
import subprocess
import threading
import tomllib
from pathlib import Path

import text

SERVICES = {"nats", "scylladb", "migrate", "gateway", "message-worker", "presence-worker"}
ROLES = {"migrate", "gateway", "message-worker", "presence-worker"}
SECRET = {"AUTH_SECRET": "0123456789abcdef0123456789abcdef"}


def _compose(root: Path) -> dict:
    [compose] = text.documents((root / "deploy" / "compose.yaml").read_text())
    return compose["services"]


def parses(root: Path) -> None:
    """compose.yaml is valid (by docker compose, if installed) and has all services of the system"""
    assert _compose(root).keys() == SERVICES
    if shutil.which("docker") is None or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode != 0:
        return
    command = ["docker", "compose", "--env-file", os.devnull, "--file", str(root / "deploy" / "compose.yaml"), "config", "--quiet"]
    bare = {key: value for key, value in os.environ.items() if not key.startswith("AUTH_SECRET")}
    done = subprocess.run(command, capture_output=True, text=True, env=bare | SECRET, timeout=60)
    assert done.returncode == 0, done.stderr
    refused = subprocess.run(command, capture_output=True, text=True, env=bare, timeout=60)
    assert refused.returncode != 0 and "set AUTH_SECRET" in refused.stderr, refused.stderr


def roles(root: Path) -> None:
    """every role of compose.yaml runs the same hardened image, with the addresses of NATS and ScyllaDB and a secret"""
    services = _compose(root)
    for role in ROLES:
        service = services[role]
        assert service["image"] == "carillon:local" and service["command"] == [role], role
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"], role
        environment = service["environment"]
        assert environment["NATS_URL"] == "nats://nats:4222" and environment["SCYLLA_NODES"] == "scylladb:9042", role
        assert environment["AUTH_SECRET"].startswith("${AUTH_SECRET:?"), role
        assert int(service["stop_grace_period"].removesuffix("s")) > 25, "shorter than drain_timeout"


def order(root: Path) -> None:
    """services start after the services that they need are healthy and the schema is migrated, and have health checks"""
    services = _compose(root)
    for name, service in services.items():
        assert ("healthcheck" in service) == (name != "migrate"), name
        for other, wanted in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if other == "migrate" else "service_healthy"
            assert wanted == {"condition": expected}, f"{name} on {other}"
    for worker in ("message-worker", "presence-worker"):
        assert services[worker]["depends_on"].keys() == {"nats", "scylladb", "migrate"}
        assert services[worker]["environment"]["CARILLON_ADMIN_LISTEN"].endswith(":9000")
        assert services[worker]["healthcheck"]["test"] == ["CMD", "probe", "9000"]
    assert services["gateway"]["healthcheck"]["test"] == ["CMD", "probe", "8000"]
    assert services["migrate"]["restart"] == "no", "a one-shot that restarts never completes"


def closed(root: Path) -> None:
    """compose.yaml publishes only the gateway, and only on loopback"""
    published = {name: service["ports"] for name, service in _compose(root).items() if "ports" in service}
    assert published == {"gateway": ["127.0.0.1:8000:8000"]}, published


def durable(root: Path) -> None:
    """NATS and ScyllaDB sync writes before they acknowledge them, and keep their data in named volumes"""
    nats = (root / "deploy" / "nats.conf").read_text()
    assert re.search(r"^\s*sync_interval: always$", nats, re.MULTILINE) and re.search(r"^\s*store_dir: /data$", nats, re.MULTILINE)
    services = _compose(root)
    assert "nats-data:/data" in services["nats"]["volumes"]
    assert "scylladb-data:/var/lib/scylla" in services["scylladb"]["volumes"]
    command = services["scylladb"]["command"]
    assert command[command.index("--commitlog-sync") + 1] == "batch"
    [release] = re.findall(r"^nats:(\d+)\.(\d+)\.(\d+)", services["nats"]["image"])
    assert tuple(map(int, release)) >= (2, 12, 3), "before 2.12.3 acknowledged entries could be lost"


def build(root: Path) -> None:
    """the image is built by the pinned compiler from all members of the workspace, and runs as an unprivileged user"""
    dockerfile = (root / "deploy" / "Dockerfile").read_text()
    channel = tomllib.loads((root / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
    assert f"ARG RUST_VERSION={channel}\n" in dockerfile, f"rust-toolchain.toml says {channel}"
    for line in ("USER 65532:65532", "EXPOSE 8000 9000", "STOPSIGNAL SIGTERM", 'ENTRYPOINT ["/usr/local/bin/carillon"]'):
        assert f"{line}\n" in dockerfile, f"no {line}"
    rules = [line for line in (root / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*", ".dockerignore admits more than it names"
    admitted = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    members = tomllib.loads((root / "Cargo.toml").read_text())["workspace"]["members"]
    wanted = {"Cargo.toml", "Cargo.lock", *members}
    missing = {path for path in wanted if not any(path == rule or path.startswith(f"{rule}/") for rule in admitted)}
    assert not missing, f".dockerignore keeps out {sorted(missing)}"
    absent = {path for path in admitted if not (root / path).exists()}
    assert not absent, f".dockerignore admits what does not exist: {sorted(absent)}"


def includes(root: Path) -> None:
    """no source file includes a file that .dockerignore excludes from the build of the image"""
    members = tomllib.loads((root / "Cargo.toml").read_text())["workspace"]["members"]
    pattern = re.compile(r'include(?:_str|_bytes)?!\(\s*(?:concat!\(\s*env!\("CARGO_MANIFEST_DIR"\),\s*)?"([^"]+)"')
    for member in members:
        for source in (root / member).rglob("*.rs"):
            for included in pattern.findall(source.read_text()):
                base = root / member if included.startswith("/") else source.parent
                target = (base / included.removeprefix("/")).resolve()
                inside = target.relative_to(root.resolve()).parts[0] if target.is_relative_to(root.resolve()) else ""
                assert inside in members, f"{source.relative_to(root)} includes {included}, which .dockerignore keeps out"


def probe(root: Path) -> None:
    """probe.sh succeeds only if /readyz answers 200"""

    class Answer(http.server.BaseHTTPRequestHandler):
        status = 200

        def do_GET(self) -> None:
            self.send_response(self.status if self.path == "/readyz" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = ["bash", str(root / "deploy" / "probe.sh"), str(server.server_port)]
    try:
        assert subprocess.run(command, timeout=10).returncode == 0, "not satisfied by 200"
        Answer.status = 503
        assert subprocess.run(command, timeout=10).returncode != 0, "satisfied by 503"
    finally:
        server.shutdown()
        server.server_close()
    assert subprocess.run(command, timeout=10, stderr=subprocess.DEVNULL).returncode != 0, "satisfied by nobody"


FACTS = [parses, roles, order, closed, durable, build, includes, probe]
