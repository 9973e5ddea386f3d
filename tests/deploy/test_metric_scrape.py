"""Prometheus finds the server: what the monitoring component selects is there, on every overlay."""

import json
import re

import pytest

from tests.deploy.expressions import DASHBOARD, KUBERNETES, rules
from tests.deploy.promql import reads
from tests.deploy.rendered import Resource, render
from tests.deploy.tools import kustomizes

ON = ["base", "overlays/cpu-demo", "overlays/gpu", "overlays/gpu-multi-node"]
Resources = dict[tuple[str, str], Resource]


@pytest.fixture(params=ON)
def resources(request: pytest.FixtureRequest) -> Resources:
    """Of an overlay with the component on top."""
    return by_name(f"{request.param} + overlays/monitoring")


def by_name(name: str) -> Resources:
    command = next(iter(kustomizes().values()))
    return {(r["kind"], r["metadata"]["name"]): r for r in render(name, command)}


def test_the_monitor_finds_one_service_and_its_port(resources: Resources) -> None:
    monitor = resources["ServiceMonitor", "steersman"]["spec"]
    services = [r for (kind, _), r in resources.items() if kind == "Service"]
    chosen = [
        service
        for service in services
        if monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    ]
    # Two would count every replica twice.
    (service,) = chosen
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in [port.get("name") for port in service["spec"]["ports"]]
    assert endpoint["path"] == "/metrics"
    # The job that every expression asks for.
    assert service["metadata"]["labels"][monitor["jobLabel"]] == "steersman"


def test_prometheus_is_let_in_to_the_pods(resources: Resources) -> None:
    policy = resources["NetworkPolicy", "steersman-metrics"]["spec"]
    service = resources["Service", "steersman"]
    assert policy["podSelector"]["matchLabels"].items() <= service["spec"]["selector"].items()
    ports = [port["port"] for rule in policy["ingress"] for port in rule["ports"]]
    assert ports == [port["targetPort"] for port in service["spec"]["ports"]]


def test_the_dashboard_is_where_grafana_looks(resources: Resources) -> None:
    board = resources["ConfigMap", "steersman-dashboard"]
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(board["data"]["steersman.json"]) == json.loads(DASHBOARD.read_text())
    # A ConfigMap is a megabyte at most, and kubectl apply puts the whole into an annotation.
    assert len(board["data"]["steersman.json"]) < 200_000


def test_kubernetes_rules_name_what_is_deployed() -> None:
    found = by_name("overlays/gpu + overlays/monitoring + overlays/autoscale")
    deployment = found["Deployment", "steersman"]
    containers = deployment["spec"]["template"]["spec"]["containers"]
    there = {
        "container": {container["name"] for container in containers},
        "deployment": {"steersman"},
        # KEDA's own name for it.
        "horizontalpodautoscaler": {f"keda-hpa-{name}" for k, name in found if k == "ScaledObject"},
        "persistentvolumeclaim": {n for k, n in found if k == "PersistentVolumeClaim"},
    }
    matchers = [
        matcher
        for rule in rules()
        if rule.group == KUBERNETES
        for selector in reads(rule.text).selectors
        for matcher in selector.matchers
    ]
    assert {matcher.label for matcher in matchers} == set(there)
    for matcher in matchers:
        fits = [name for name in there[matcher.label] if re.fullmatch(matcher.value, name)]
        assert fits, matcher
    assert deployment["metadata"]["name"] == "steersman"
