"""Who finds whom: services, budgets and network policies against the pods that they are about."""

from typing import Any

import pytest

from tests.deploy.rendered import JOBS, RENDERINGS, Workload, resources, workloads

API = 8000
EACH = pytest.mark.parametrize("name", [name for name in RENDERINGS if name not in JOBS])


def _kind(name: str, kind: str) -> list[dict[str, Any]]:
    return [r for r in resources(name) if r["kind"] == kind]


def _selected(name: str, labels: dict[str, str]) -> list[Workload]:
    return [pod for pod in workloads(name) if labels.items() <= pod.labels.items()]


def _listening(name: str) -> list[Workload]:
    """Pods with an API server."""
    return [p for p in workloads(name) if any("--headless" not in args for _, args in p.servers)]


@EACH
def test_services_reach_the_servers_and_only_them(name: str) -> None:
    services = _kind(name, "Service")
    assert services
    for service in services:
        found = _selected(name, service["spec"]["selector"])
        assert found == _listening(name)
        for pod in found:
            ports = {p["name"]: p for p in pod.spec["containers"][0]["ports"]}
            for port in service["spec"]["ports"]:
                assert ports[port["targetPort"]]["containerPort"] == API


@EACH
def test_deployments_select_their_own_pods(name: str) -> None:
    for deployment in _kind(name, "Deployment"):
        wanted = deployment["spec"]["selector"]["matchLabels"]
        assert wanted.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
        for spread in deployment["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
            assert _selected(name, spread["labelSelector"]["matchLabels"])


@EACH
def test_one_budget_and_all_pods_under_it(name: str) -> None:
    [budget] = _kind(name, "PodDisruptionBudget")
    assert _selected(name, budget["spec"]["selector"]["matchLabels"]) == workloads(name)
    assert budget["spec"]["maxUnavailable"] == 1


@EACH
def test_nothing_but_the_api_is_open(name: str) -> None:
    """Every server is under a policy for both ways; what comes in comes to the API's port."""
    policies = _kind(name, "NetworkPolicy")
    both = [p for p in policies if set(p["spec"]["policyTypes"]) == {"Ingress", "Egress"}]
    covered = [
        pod for p in both for pod in _selected(name, p["spec"]["podSelector"]["matchLabels"])
    ]
    assert covered == workloads(name)
    for policy in policies:
        for rule in policy["spec"].get("ingress", []):
            assert rule["from"], "an empty `from` is everybody"
            ports = {port["port"] for port in rule.get("ports", [])}
            if name.startswith("overlays/gpu-multi-node") and not ports:
                assert rule["from"] == [_PEERS]
            else:
                assert ports in ({API}, {"http"})
                assert all(port["protocol"] == "TCP" for port in rule["ports"])


_PEERS = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "steersman"}}}


@EACH
def test_nothing_goes_out(name: str) -> None:
    """But, of a group over several hosts, to each other, and to ask for names."""
    allowed = [rule for p in _kind(name, "NetworkPolicy") for rule in p["spec"].get("egress", [])]
    if not name.startswith("overlays/gpu-multi-node"):
        assert allowed == []
        return
    peers, names = allowed
    assert peers == {"to": [_PEERS]}
    assert {port["port"] for port in names["ports"]} == {53}


@EACH
def test_monitors_find_the_service(name: str) -> None:
    for monitor in _kind(name, "ServiceMonitor"):
        labels = monitor["spec"]["selector"]["matchLabels"]
        found = [
            s for s in _kind(name, "Service") if labels.items() <= s["metadata"]["labels"].items()
        ]
        [service] = found
        ports = {port["name"] for port in service["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports


@EACH
def test_scalers_scale_something(name: str) -> None:
    for scaler in _kind(name, "ScaledObject"):
        target = scaler["spec"]["scaleTargetRef"]
        [found] = _kind(name, target.get("kind", "Deployment"))
        assert found["metadata"]["name"] == target["name"]
        assert "replicas" not in found["spec"], "kubectl apply would undo the autoscaler"
