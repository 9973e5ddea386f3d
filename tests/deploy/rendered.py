"""What an operator would apply: every kustomization under deploy/, rendered."""

import functools
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.tools import DEPLOY, kustomizes

Resource = dict[str, Any]
_FILES = sorted(DEPLOY.rglob("kustomization.yaml"))
_KINDS = {
    str(path.parent.relative_to(DEPLOY)): yaml.safe_load(path.read_text())["kind"]
    for path in _FILES
}
COMPONENTS = [directory for directory, kind in _KINDS.items() if kind == "Component"]
"""Directories that add to another one, and are nothing alone."""
_TOGETHER = [
    "overlays/cpu-demo + overlays/monitoring",
    "overlays/gpu + overlays/default-preset",
    "overlays/gpu + overlays/monitoring",
    "overlays/gpu + overlays/monitoring + overlays/autoscale",
    "overlays/gpu-multi-node + overlays/monitoring",
]
RENDERINGS = [d for d in _KINDS if d not in COMPONENTS] + _TOGETHER
"""All there is to apply: a directory, with components after it as an operator may add them."""
JOBS = ("models", "presets")
"""Those that have no server."""


def render(name: str, command: list[str]) -> list[Resource]:
    """The resources of one of RENDERINGS, by the kustomize that `command` is."""
    directory, *components = name.split(" + ")
    if not components:
        return _render(DEPLOY / directory, command)
    with tempfile.TemporaryDirectory() as folder:
        # kustomize wants paths that are relative.
        here = os.path.relpath(DEPLOY, Path(folder).resolve())
        overlay = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [f"{here}/{directory}"],
            "components": [f"{here}/{component}" for component in components],
        }
        Path(folder, "kustomization.yaml").write_text(yaml.safe_dump(overlay))
        return _render(Path(folder), command)


def _render(directory: Path, command: list[str]) -> list[Resource]:
    done = subprocess.run(
        [*command, str(directory)], capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode:
        raise AssertionError(f"{' '.join(command)} {directory}: {done.stderr}")
    return [document for document in yaml.safe_load_all(done.stdout) if document]


@functools.cache
def resources(name: str) -> tuple[Resource, ...]:
    """The resources of one of RENDERINGS, by kubectl where there is one."""
    return tuple(render(name, next(iter(kustomizes().values()))))


@dataclass(frozen=True)
class Workload:
    """A pod template that something makes pods of, and what its pods read."""

    name: str
    template: dict[str, Any]
    config: dict[str, str]
    """What `envFrom` brings."""

    @property
    def labels(self) -> dict[str, str]:
        labels: dict[str, str] = self.template["metadata"]["labels"]
        return labels

    @property
    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.template["spec"]
        return spec

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def servers(self) -> list[tuple[dict[str, Any], list[str]]]:
        """Containers that run `steersman serve`, and their arguments as the kubelet makes them."""
        found = [(c, self._arguments(c)) for c in self.containers if "command" not in c]
        return [(container, args) for container, args in found if args[:1] == ["serve"]]

    def _arguments(self, container: dict[str, Any]) -> list[str]:
        known = {**self.config, **_FROM_LWS}
        known |= {e["name"]: e.get("value", "") for e in container.get("env", [])}

        def value(match: re.Match[str]) -> str:
            if match[1] not in known:
                raise AssertionError(f"{self.name}: nothing sets {match[0]}")
            return known[match[1]]

        return [re.sub(r"\$\((\w+)\)", value, arg) for arg in container.get("args", [])]


# Set in every container by the LeaderWorkerSet controller.
_FROM_LWS = {
    "LWS_GROUP_SIZE": "2",
    "LWS_WORKER_INDEX": "1",
    "LWS_LEADER_ADDRESS": "steersman-group-0.steersman-group.default",
}


@functools.cache
def workloads(name: str) -> list[Workload]:
    """All that makes pods in one of RENDERINGS."""
    return list(_workloads(resources(name)))


def _workloads(found: tuple[Resource, ...]) -> Iterator[Workload]:
    maps = {r["metadata"]["name"]: r.get("data", {}) for r in found if r["kind"] == "ConfigMap"}
    for resource in found:
        for part, template in templates(resource):
            config: dict[str, str] = {}
            for container in template["spec"]["containers"]:
                for source in container.get("envFrom", []):
                    config |= maps[source["configMapRef"]["name"]]
            yield Workload(f"{resource['kind']} {part}", template, config)


def templates(resource: Resource) -> list[tuple[str, dict[str, Any]]]:
    """The pod templates in a resource, named."""
    name = resource["metadata"]["name"]
    match resource["kind"]:
        case "Deployment" | "StatefulSet" | "DaemonSet" | "Job":
            return [(name, resource["spec"]["template"])]
        case "LeaderWorkerSet":
            group = resource["spec"]["leaderWorkerTemplate"]
            parts = [part for part in ("leaderTemplate", "workerTemplate") if part in group]
            return [(f"{name} {part}", group[part]) for part in parts]
    # Whatever else has containers in it must be named above, or no promise is checked of it.
    if "'containers'" in repr(resource):
        raise AssertionError(f"{resource['kind']} {name} has containers, and is not known here")
    return []
