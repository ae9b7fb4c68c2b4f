"""Checks of the rendered objects: they are valid by Kubernetes' schemas, hardened, and their references are correct."""

import base64

import kubernetes_validate

from chart import Rendering

# Kinds without a schema in Kubernetes, because an operator defines them.
CUSTOM = {"PodMonitor"}
PORTS = {"gateway": ("http", 8000), "message-worker": ("admin", 9000), "presence-worker": ("admin", 9000)}


def valid(objects: list[dict], version: str) -> None:
    names = [(found["kind"], found["metadata"]["name"]) for found in objects]
    assert len(set(names)) == len(names), f"an object is rendered twice: {names}"
    for found in objects:
        if found["kind"] in CUSTOM:
            continue
        try:
            kubernetes_validate.validate(found, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            path = ".".join(map(str, error.path))
            raise AssertionError(f"{found['kind']} {found['metadata']['name']}: {path}: {error.message}") from None


def _component(found: dict) -> str:
    return found["metadata"]["labels"]["app.kubernetes.io/component"]


def _container(pod: dict) -> dict:
    [container] = pod["spec"]["containers"]
    return container


def _matches(selector: dict, labels: dict) -> bool:
    return bool(selector) and selector.items() <= labels.items()


def _selected(rendering: Rendering, selector: dict) -> list[str]:
    return [_component(pod) for pod in rendering.pods().values() if _matches(selector, pod["metadata"]["labels"])]


def three_workloads(rendering: Rendering) -> None:
    """each of the three roles has one Deployment, which runs the role with the settings file"""
    found = {_component(deployment): deployment for deployment in rendering.of_kind("Deployment")}
    assert found.keys() == PORTS.keys() and len(rendering.of_kind("Deployment")) == 3, sorted(found)
    for role, deployment in found.items():
        arguments = _container(deployment["spec"]["template"])["args"]
        assert arguments[0] == role and arguments[-2:] == ["--config", "/etc/carillon/carillon.toml"], arguments
        admin = ["--admin-listen", "0.0.0.0:9000"]
        assert (arguments[1:-2] == admin) == (role != "gateway"), arguments


def probes(rendering: Rendering) -> None:
    """startup, liveness and readiness probes use a port on which the role listens"""
    for deployment in rendering.of_kind("Deployment"):
        container = _container(deployment["spec"]["template"])
        name, number = PORTS[_component(deployment)]
        assert container["ports"] == [{"name": name, "containerPort": number}], container["ports"]
        expected = {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
        for probe, path in expected.items():
            assert container[probe]["httpGet"] == {"path": path, "port": name}, container[probe]


def hardened(rendering: Rendering) -> None:
    """no pod runs as root, writes to its file system, or has capabilities, an account token or service links"""
    for pod in rendering.pods().values():
        spec, container = pod["spec"], _container(pod)
        assert spec["securityContext"]["runAsNonRoot"] is True and spec["securityContext"]["runAsUser"] == 65532
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]
        assert not container["image"].endswith((":", ":latest")), container["image"]
    for account in rendering.of_kind("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def secrets(rendering: Rendering) -> None:
    """secrets are only in the Secret, and the pods refer only to existing Secrets"""
    auth = rendering.values["auth"]
    words = [auth.get("secret"), auth.get("previousSecret"), *auth.get("apiKeys", [])]
    for found in rendering.objects:
        if found["kind"] != "Secret":
            leaked = [word for word in words if word and word in str(found)]
            assert not leaked, f"{found['kind']} {found['metadata']['name']} shows {leaked}"
    made = {found["metadata"]["name"]: found["data"] for found in rendering.of_kind("Secret")}
    assert bool(made) == ("existingSecret" not in auth), list(made)
    for data in made.values():
        decoded = {key: base64.b64decode(value).decode() for key, value in data.items()}
        assert decoded == {
            "AUTH_SECRET": auth["secret"],
            "AUTH_SECRET_PREVIOUS": auth["previousSecret"],
            "CARILLON_API__KEYS": ",".join(auth["apiKeys"]),
        }
    known = {*made, auth.get("existingSecret"), rendering.values["nats"].get("urlSecret", {}).get("name")}
    for name, pod in rendering.pods().items():
        references = {e["name"]: e["valueFrom"]["secretKeyRef"] for e in _container(pod).get("env", []) if "valueFrom" in e}
        assert {reference["name"] for reference in references.values()} <= known, f"{name}: {references}"
        is_gateway = _component(pod) == "gateway"
        assert ("AUTH_SECRET" in references) == is_gateway, f"{name}: {sorted(references)}"
        if is_gateway:
            assert "optional" not in references["AUTH_SECRET"], "a gateway without its secret must not start"


def grace(rendering: Rendering) -> None:
    """the termination grace period is longer than preStop and the drain together"""
    drain = rendering.values.get("drainTimeoutSeconds", 25)
    for deployment in rendering.of_kind("Deployment"):
        spec = deployment["spec"]["template"]["spec"]
        sleep = spec["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        assert spec["terminationGracePeriodSeconds"] >= sleep + drain + 5, spec["terminationGracePeriodSeconds"]


def selectors(rendering: Rendering) -> None:
    """every selector selects the pods of its role and no others"""
    for deployment in rendering.of_kind("Deployment"):
        role = _component(deployment)
        assert _selected(rendering, deployment["spec"]["selector"]["matchLabels"]) == [role]
        for constraint in deployment["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
            assert _selected(rendering, constraint["labelSelector"]["matchLabels"]) == [role]
    [service] = rendering.of_kind("Service")
    assert _selected(rendering, service["spec"]["selector"]) == ["gateway"]
    assert [port["targetPort"] for port in service["spec"]["ports"]] == ["http"]
    for budget in rendering.of_kind("PodDisruptionBudget"):
        assert _selected(rendering, budget["spec"]["selector"]["matchLabels"]) == [_component(budget)]
    for monitor in rendering.of_kind("PodMonitor"):
        assert set(PORTS) <= set(_selected(rendering, monitor["spec"]["selector"]["matchLabels"]))
        ports = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
        assert ports == {name for name, _ in PORTS.values()}


def scaling(rendering: Rendering) -> None:
    """either the autoscaler or the Deployment sets the number of gateways"""
    targets = {scaler["spec"]["scaleTargetRef"]["name"] for scaler in rendering.of_kind("HorizontalPodAutoscaler")}
    for deployment in rendering.of_kind("Deployment"):
        assert ("replicas" in deployment["spec"]) == (deployment["metadata"]["name"] not in targets)
    assert targets <= {deployment["metadata"]["name"] for deployment in rendering.of_kind("Deployment")}


def metrics(rendering: Rendering) -> None:
    """metrics are announced by annotations, by the PodMonitor, or not at all, but never by both"""
    wanted = rendering.values.get("metrics", {})
    monitored = bool(rendering.of_kind("PodMonitor"))
    for deployment in rendering.of_kind("Deployment"):
        annotations = deployment["spec"]["template"]["metadata"]["annotations"]
        assert ("prometheus.io/scrape" in annotations) == (wanted.get("annotations", True) and not monitored)
        if "prometheus.io/port" in annotations:
            assert annotations["prometheus.io/port"] == str(PORTS[_component(deployment)][1])


def migration(rendering: Rendering) -> None:
    """the migration runs before everything else and needs no object that this release creates later"""
    jobs = rendering.of_kind("Job")
    assert len(jobs) == rendering.values.get("migrate", {}).get("enabled", True)
    hooks = {found["metadata"]["name"]: found for found in rendering.of_kind("ConfigMap") if _is_hook(found)}
    for job in jobs:
        assert _is_hook(job)
        pod = job["spec"]["template"]["spec"]
        assert "serviceAccountName" not in pod, "the release's account does not exist yet"
        [volume] = pod["volumes"]
        settings = hooks[volume["configMap"]["name"]]
        weights = [int(found["metadata"]["annotations"]["helm.sh/hook-weight"]) for found in (settings, job)]
        assert weights[0] < weights[1], "the settings must be there before the Job"
        [main] = [found for found in rendering.of_kind("ConfigMap") if not _is_hook(found)]
        assert settings["data"] == main["data"], "the migration has other settings than the pods"


def _is_hook(found: dict) -> bool:
    return found["metadata"].get("annotations", {}).get("helm.sh/hook") == "pre-install,pre-upgrade"


def ingress(rendering: Rendering) -> None:
    """the ingress allows the clients' paths but not the metrics, and does not time out quiet WebSockets"""
    [service] = rendering.of_kind("Service")
    wanted = rendering.values.get("ingress", {})
    assert len(rendering.of_kind("Ingress")) == wanted.get("enabled", False)
    for found in rendering.of_kind("Ingress"):
        assert [rule["host"] for rule in found["spec"]["rules"]] == wanted["hosts"]
        for rule in found["spec"]["rules"]:
            paths = {path["path"]: path["pathType"] for path in rule["http"]["paths"]}
            assert paths == {"/": "Exact", "/ws": "Prefix", "/api": "Prefix", "/socket.io": "Prefix"}, paths
            backends = {path["backend"]["service"]["name"] for path in rule["http"]["paths"]}
            assert backends == {service["metadata"]["name"]}
        timeout = found["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-read-timeout"]
        assert int(timeout) >= 600, timeout


FACTS = [three_workloads, probes, hardened, secrets, grace, selectors, scaling, metrics, migration, ingress]
