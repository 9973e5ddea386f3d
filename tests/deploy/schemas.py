"""Whether a cluster would take a resource: by Kubernetes' own schemas and custom resources'."""

import json
import subprocess
from pathlib import Path
from typing import Any, Final

import jsonschema
import kubernetes_validate

from tests.deploy.rendered import Resource, templates
from tests.deploy.tools import TOOLS, tool

VERSIONS: Final = ("1.30.0", kubernetes_validate.latest_version())
"""Of Kubernetes: the oldest that has all we use (preStop's `sleep`), and the newest."""

_CUSTOM: Final = ("gateway.networking.k8s.io/", "keda.sh/", "monitoring.coreos.com/")
"""Groups whose schemas are on npm, in @kubernetes-models."""


def _closed(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


_NUMBER = {"type": "integer", "minimum": 0}
_SOME = {"oneOf": [_NUMBER, {"type": "string", "pattern": "^[0-9]+%$"}]}

# LeaderWorkerSet's schema is in none of @kubernetes-models' packages. So this is not the published
# one: it is the part of the v1 API that these manifests use, written from its reference, and
# closed: what is not in it is an error, and is to be looked up there before it is added here. Pod
# templates are checked against Kubernetes' own schema.
LEADER_WORKER_SET: Final = _closed(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "leaderworkerset.x-k8s.io/v1"},
    kind={"const": "LeaderWorkerSet"},
    metadata={"type": "object"},
    spec=_closed(
        ["leaderWorkerTemplate"],
        replicas=_NUMBER,
        startupPolicy={"enum": ["LeaderCreated", "LeaderReady"]},
        rolloutStrategy=_closed(
            ["type"],
            type={"const": "RollingUpdate"},
            rollingUpdateConfiguration=_closed([], maxUnavailable=_SOME, maxSurge=_SOME),
        ),
        leaderWorkerTemplate=_closed(
            ["workerTemplate"],
            size={"type": "integer", "minimum": 1},
            restartPolicy={"enum": ["RecreateGroupOnPodRestart", "None"]},
            leaderTemplate={"type": "object"},
            workerTemplate={"type": "object"},
        ),
    ),
)


def problems(resources: list[Resource], version: str) -> list[str]:
    """What is wrong with `resources` on Kubernetes `version`; a kind that nobody knows is wrong."""
    custom = [r for r in resources if r["apiVersion"].startswith(_CUSTOM)]
    found = _published(custom) if custom else []
    for resource in resources:
        name = f"{resource['kind']} {resource['metadata'].get('name')}"
        if resource["kind"] == "LeaderWorkerSet":
            found += [f"{name}: {problem}" for problem in _leader_worker_set(resource, version)]
        elif resource not in custom:
            found += [f"{name}: {problem}" for problem in _builtin(resource, version)]
    return found


def _builtin(resource: Resource, version: str) -> list[str]:
    try:
        kubernetes_validate.validate(resource, version, strict=True)
    except kubernetes_validate.SchemaNotFoundError as error:
        return [error.message]
    except kubernetes_validate.ValidationError as error:
        return [f"{'/'.join(map(str, error.absolute_path))}: {error.message}"]
    return []


def _leader_worker_set(resource: Resource, version: str) -> list[str]:
    errors = jsonschema.Draft202012Validator(LEADER_WORKER_SET).iter_errors(resource)
    found = [f"{'/'.join(map(str, e.absolute_path))}: {e.message}" for e in errors]
    for part, template in templates(resource):
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "template": template}
        found += [f"{part}: {problem}" for problem in _builtin(pod, version)]
    return found


def _published(resources: list[Resource]) -> list[str]:
    """By the validators of @kubernetes-models, which are JavaScript."""
    script = Path(__file__).with_name("crds.mjs")
    done = subprocess.run(
        [str(tool("node")), str(script), str(TOOLS / "node_modules")],
        input=json.dumps(resources),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode:
        raise AssertionError(done.stderr)
    return [
        f"{resource['kind']} {resource['metadata'].get('name')}: {error}"
        for resource, errors in zip(resources, json.loads(done.stdout), strict=True)
        for error in errors
    ]
