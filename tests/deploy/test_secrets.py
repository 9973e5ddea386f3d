"""No secret is in the repository: a Secret is named by the manifests, and made by the operator."""

import re
import subprocess

import pytest

from tests.deploy.rendered import RENDERINGS, resources, workloads
from tests.deploy.tools import DEPLOY, ROOT

MADE_BY_OPERATORS = {"steersman-keys", "steersman-huggingface", "steersman-presets-key"}


@pytest.mark.parametrize("name", RENDERINGS)
def test_no_secrets_rendered(name: str) -> None:
    assert [r["metadata"]["name"] for r in resources(name) if r["kind"] == "Secret"] == []


@pytest.mark.parametrize("name", RENDERINGS)
def test_only_secrets_that_operators_make_are_used(name: str) -> None:
    used = set()
    for pod in workloads(name):
        used |= {v["secret"]["secretName"] for v in pod.spec["volumes"] if "secret" in v}
        for container in pod.containers:
            sources = [e.get("valueFrom", {}) for e in container.get("env", [])]
            used |= {s["secretKeyRef"]["name"] for s in sources if "secretKeyRef" in s}
            assert not any("secretRef" in s for s in container.get("envFrom", []))
    assert used <= MADE_BY_OPERATORS
    if any(pod.servers for pod in workloads(name)):
        assert "steersman-keys" in used


def test_no_file_here_has_a_secret_in_it() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", str(DEPLOY)],
        cwd=ROOT, capture_output=True, check=True, text=True, timeout=60,
    ).stdout  # fmt: skip
    files = [ROOT / line for line in listed.split("\0") if line]
    assert any(file.name == "deployment.yaml" for file in files)
    for file in files:
        text = file.read_text(errors="replace")
        assert not re.search(r"^kind: Secret$|secretGenerator:", text, re.MULTILINE), file
        assert not re.search(r"BEGIN [A-Z ]*PRIVATE KEY|\bhf_[A-Za-z0-9]{20,}", text), file
        # A hash of a key is no secret, and yet somebody's own.
        assert not re.search(r"sha256: [0-9a-f]{64}", text), file
