"""What every pod promises: who it runs as, what it may, how it starts and how it ends."""

from typing import Any

import pytest

from tests.deploy.rendered import JOBS, RENDERINGS, Workload, resources, workloads

EVERY = [(name, pod) for name in RENDERINGS for pod in workloads(name)]
PODS = pytest.mark.parametrize(
    "pod", [pod for _, pod in EVERY], ids=[f"{name}: {pod.name}" for name, pod in EVERY]
)
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
PATHS = {"startupProbe": "/ready", "readinessProbe": "/ready", "livenessProbe": "/health"}


def _context(pod: Workload, container: dict[str, Any]) -> dict[str, Any]:
    """The security context that holds: the container's own, over the pod's."""
    return {**pod.spec.get("securityContext", {}), **container.get("securityContext", {})}


def test_every_rendering_has_servers() -> None:
    assert len(EVERY) > len(RENDERINGS)
    for name in RENDERINGS:
        if name not in JOBS:
            assert any(pod.servers for pod in workloads(name)), name


@PODS
def test_not_root_and_without_rights(pod: Workload) -> None:
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys()
    for container in pod.containers:
        context = _context(pod, container)
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == context["runAsGroup"] == 10001
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert context["allowPrivilegeEscalation"] is False
        assert context.get("privileged", False) is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"] is True


@PODS
def test_no_token_of_the_cluster(pod: Workload) -> None:
    assert pod.spec["automountServiceAccountToken"] is False


@PODS
def test_volumes(pod: Workload) -> None:
    volumes = {v["name"]: v for v in pod.spec["volumes"]}
    assert not any("hostPath" in volume for volume in volumes.values())
    for container in pod.containers:
        mounts = {m["mountPath"]: m for m in container["volumeMounts"]}
        assert {m["name"] for m in mounts.values()} <= volumes.keys()
        # The root is read-only; this is where the image lets Python write.
        assert "emptyDir" in volumes[mounts["/tmp"]["name"]]
    for container, _ in pod.servers:
        mounts = {m["mountPath"]: m for m in container["volumeMounts"]}
        assert "emptyDir" in volumes[mounts["/var/lib/steersman"]["name"]]
        assert volumes[mounts["/dev/shm"]["name"]]["emptyDir"]["medium"] == "Memory"
        if models := mounts.get("/models"):
            assert models["readOnly"] is True
        if keys := mounts.get("/etc/steersman/keys"):
            assert keys["readOnly"] is True
            # A subPath would keep the Secret that was there when the pod started.
            assert "subPath" not in keys


@PODS
def test_claims_exist(pod: Workload) -> None:
    """The Job's comes with an overlay."""
    claims = {r["metadata"]["name"] for name in RENDERINGS for r in resources(name)
              if r["kind"] == "PersistentVolumeClaim"}  # fmt: skip
    for volume in pod.spec["volumes"]:
        if claim := volume.get("persistentVolumeClaim"):
            assert claim["claimName"] in claims


@PODS
def test_no_pod_ends_before_what_runs_may(pod: Workload) -> None:
    """preStop and --shutdown-timeout fit into the grace period, and vLLM's own end after them."""
    for container, args in pod.servers:
        waits = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        timeout = _shutdown_timeout(args)
        # Load balancers need some seconds to hear of it, and requests more than a few to finish.
        assert waits >= 5
        assert timeout >= 30
        if "--headless" in args:
            continue
        assert waits + timeout + 10 <= pod.spec["terminationGracePeriodSeconds"]


def test_workers_outlast_their_leader() -> None:
    """A headless worker stops at SIGTERM; it must not get one while its leader drains."""
    group = {pod.name.split()[-1]: pod for pod in workloads("overlays/gpu-multi-node")}
    leader, worker = group["leaderTemplate"], group["workerTemplate"]
    [(leading, args)], [(working, _)] = leader.servers, worker.servers
    drained = leading["lifecycle"]["preStop"]["sleep"]["seconds"] + _shutdown_timeout(args)
    waits = working["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert drained < waits < worker.spec["terminationGracePeriodSeconds"]


def _shutdown_timeout(args: list[str]) -> int:
    [timeout] = [arg for arg in args if arg.startswith("--shutdown-timeout=")]
    return int(timeout.partition("=")[2])


@PODS
def test_probes(pod: Workload) -> None:
    for container, args in pod.servers:
        if "--headless" in args:
            assert not set(PROBES) & container.keys()
            continue
        ports = {p["name"]: p["containerPort"] for p in container["ports"]}
        for probe in PROBES:
            asked = container[probe]["httpGet"]
            assert asked["path"] == PATHS[probe]
            assert f"--port={ports[asked['port']]}" in args
        # The demo's first start took 203 s with installing; a start on a busy CPU 60 s.
        startup = container["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 600
        # A library's disk that hangs is 503 after two seconds; the probe must wait for that.
        assert container["readinessProbe"]["timeoutSeconds"] > 2


def test_probed_paths_are_served() -> None:
    """By the server's own routes: a path that is not there would be a pod that never starts."""
    from fastapi import FastAPI
    from vllm.entrypoints.serve.instrumentator.health import router as alive

    from steersman.server.health import router as ready

    app = FastAPI()
    app.include_router(alive)
    app.include_router(ready)
    assert set(PATHS.values()) <= app.openapi()["paths"].keys()


@PODS
def test_resources(pod: Workload, request: pytest.FixtureRequest) -> None:
    """Without requests a node is filled until the kernel kills; without a limit, anybody."""
    if request.node.callspec.id.startswith("base:"):
        return  # base says nothing of the machine
    for container in pod.containers:
        resources = container["resources"]
        assert {"cpu", "memory"} <= resources["requests"].keys()
        assert "memory" in resources["limits"]
        gpus = [resources[kind].get("nvidia.com/gpu") for kind in ("requests", "limits")]
        assert gpus[0] == gpus[1]


@pytest.mark.parametrize("name", RENDERINGS)
def test_rollouts_drop_nothing(name: str) -> None:
    for resource in resources(name):
        if resource["kind"] == "Deployment":
            strategy = resource["spec"]["strategy"]
            if "cpu-demo" in name:  # Its volume may be on one node only.
                assert strategy == {"type": "Recreate"}
            else:
                assert strategy["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
        elif resource["kind"] == "LeaderWorkerSet":
            update = resource["spec"]["rolloutStrategy"]["rollingUpdateConfiguration"]
            # 0 makes no pods before LWS's change 781; with two groups one is always there.
            assert update == {"maxUnavailable": 1, "maxSurge": 0}


@pytest.mark.parametrize("name", RENDERINGS)
def test_a_group_has_its_own_headless_service(name: str) -> None:
    """The controller makes it with the group's name, unless there is one: then workers never find
    a leader that is not ready, and it is not before they have."""
    names = {kind: {r["metadata"]["name"] for r in resources(name) if r["kind"] == kind}
             for kind in ("Service", "LeaderWorkerSet")}  # fmt: skip
    assert not names["Service"] & names["LeaderWorkerSet"]
