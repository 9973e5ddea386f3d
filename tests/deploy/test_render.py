"""deploy/ renders, the same by every kustomize, and a cluster knows every field of it."""

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.rendered import COMPONENTS, RENDERINGS, Resource, render, resources
from tests.deploy.schemas import VERSIONS, problems
from tests.deploy.tools import DEPLOY, kustomizes


def test_what_is_to_be_there_is_there() -> None:
    overlays = {"cpu-demo", "gpu", "gpu-multi-node", "autoscale", "monitoring", "default-preset"}
    parts = {part for name in RENDERINGS for part in name.split(" + ")}
    assert {"base", *(f"overlays/{name}" for name in overlays)} <= parts
    assert set(COMPONENTS) <= parts


@pytest.mark.parametrize("name", RENDERINGS)
def test_every_kustomize_renders_the_same(name: str) -> None:
    def key(resource: Resource) -> str:
        return f"{resource['kind']} {resource['metadata']['name']}"

    renderings = [sorted(render(name, command), key=key) for command in kustomizes().values()]
    assert all(renderings)
    assert renderings.count(renderings[0]) == len(renderings)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", RENDERINGS)
def test_valid(name: str, version: str) -> None:
    assert problems(list(resources(name)), version) == []


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.yaml")), ids=lambda p: p.name)
def test_every_file_belongs_to_a_kustomization(path: Path) -> None:
    if path.name == "kustomization.yaml":
        return
    assert path.name in (path.parent / "kustomization.yaml").read_text()


def _one(kind: str) -> Resource:
    """A resource of `kind`, out of whichever rendering has it."""
    found = [r for name in RENDERINGS for r in resources(name) if r["kind"] == kind]
    return copy.deepcopy(found[0])


def _set(resource: Resource, path: str, value: Any) -> Resource:
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    target: Any = resource
    for part in parents:
        target = target[part]
    target[last] = value
    return resource


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", "spec/template/spec/containers/0/readynessProbe", {}),
        ("Deployment", "spec/replicas", "2"),
        ("Deployment", "spec/template/spec/terminationGracePeriod", 90),
        ("NetworkPolicy", "spec/ingress/0/ports/0/portt", 8000),
        ("PersistentVolumeClaim", "spec/accessMode", ["ReadWriteMany"]),
        ("LeaderWorkerSet", "spec/leaderWorkerTemplate/restartPolicy", "Never"),
        ("LeaderWorkerSet", "spec/leaderWorkerTemplate/sise", 2),
        ("LeaderWorkerSet", "spec/leaderWorkerTemplate/workerTemplate/spec/container", []),
        ("ScaledObject", "spec/minReplicaCount", "1"),
        ("ScaledObject", "spec/scaleTargetRef/nam", "steersman"),
        ("ScaledObject", "spec/triggers/0/type", None),
        ("ServiceMonitor", "spec/endpoints/0/pathh", "/metrics"),
        ("ServiceMonitor", "spec/selector", "steersman"),
        ("PrometheusRule", "spec/groups/0/rules/0/fro", "5m"),
        ("PrometheusRule", "spec/groups/0/rules", {}),
    ],
)
def test_what_is_wrong_is_found(kind: str, path: str, value: Any) -> None:
    for version in VERSIONS:
        assert problems([_one(kind)], version) == []
        assert problems([_set(_one(kind), path, value)], version)


@pytest.mark.parametrize("api", ["v1", "example.com/v1", "keda.sh/v1alpha1"])
def test_unknown_kinds_are_wrong(api: str) -> None:
    thing = {"apiVersion": api, "kind": "Deployement", "metadata": {"name": "x"}, "spec": {}}
    assert problems([thing], VERSIONS[0])


def test_a_field_that_came_later_is_wrong_on_the_older_one() -> None:
    # So both versions' schemas are really read.
    claim = _set(_one("Deployment"), "spec/template/spec/resources", {"limits": {"cpu": "1"}})
    assert problems([claim], VERSIONS[0])
    assert problems([claim], VERSIONS[1]) == []
