"""The table of seams: it is whole, it holds on the vLLM that is installed, and it refuses."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from steersman.steering.vllm import seams
from steersman.steering.vllm.seam import Seam, lacking
from steersman.steering.vllm.unsupported import check_version
from tests.compat.seams_page import PAGE, page

ROOT = Path(__file__).parents[3]
SOURCES = sorted(
    p for room in ("client", "server", "steering", "vectors") for p in (ROOT / room).rglob("*.py")
)


def imports_of_vllm(path: Path) -> Iterator[str]:
    """Each name of vLLM that a module imports when it runs, as the table writes targets."""
    tree = ast.parse(path.read_text())
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "vllm")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
            yield from (f"{node.module}:{alias.name}" for alias in node.names)


def is_listed(name: str, path: str) -> bool:
    """Whether a row of this module has the import: itself, something inside it, or, for a function
    or submodule, the module that needs it."""
    module, _, attribute = name.partition(":")
    dotted = f"{module}.{attribute}" if attribute else module
    return any(
        seam.ours == path
        and (
            target == name
            or target.startswith(f"{name}.")
            or target.partition(":")[0] == dotted
            or (target == module and attribute in seam.needs)
        )
        for seam in seams.SEAMS
        for target in (seam.target, seam.before)
    )


def test_every_import_of_vllm_is_in_the_table() -> None:
    found = [(str(p.relative_to(ROOT)), name) for p in SOURCES for name in imports_of_vllm(p)]
    assert len(found) > 20
    assert [(path, name) for path, name in found if not is_listed(name, path)] == []


@pytest.mark.parametrize("seam", seams.SEAMS, ids=lambda seam: f"{seam.ours}-{seam.target}")
def test_no_row_is_about_something_we_do_not_touch(seam: Seam) -> None:
    assert seam.process in seams.PROCESSES
    assert seam.why
    touched = seam.target.replace(":", ".").rpartition(".")[2]
    source = (ROOT / seam.ours).read_text()
    assert any(name in source for name in (touched, *seam.needs))


@pytest.mark.parametrize("process", seams.PROCESSES)
def test_the_installed_vllm_has_all_seams(process: str) -> None:
    assert any(seam.process == process for seam in seams.SEAMS)
    seams.check(process)


@pytest.mark.parametrize(
    ("target", "needs", "missing"),
    [
        ("vllm.v1.request:Request", ("request_id", "stock_price"), "lacks stock_price"),
        ("vllm.v1.request:Request.no_such_method", (), "is not there"),
        ("vllm.v1.no_such_module:Request", (), "is not there"),
        ("vllm.v1.request", ("Request", "NoSuchClass"), "lacks NoSuchClass"),
        ("vllm.v1.core.sched.scheduler:Scheduler.finish_requests", ("request_ids", "why"),
         "lacks why"),
        ("vllm.v1.core.sched.scheduler:Scheduler", ("running", "walking"), "lacks walking"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, target: str, needs: tuple[str, ...], missing: str
) -> None:
    seam = Seam("steering/somewhere.py", seams.EVERY, target, needs, "a test wants it")
    assert lacking([seam]) == [f"{target} {missing} (steering/somewhere.py: a test wants it)"]
    monkeypatch.setattr(seams, "SEAMS", (seam,))
    with pytest.raises(RuntimeError, match=f"{missing}.*take steersman out of VLLM_PLUGINS"):
        seams.check(seams.EVERY)
    with pytest.raises(RuntimeError, match=f"supports vLLM .*this is 0.30.0, in which .*{missing}"):
        check_version("0.30.0")


def test_a_version_that_lacks_nothing_is_refused_all_the_same() -> None:
    with pytest.raises(RuntimeError, match=r"this is 0\.99\.0, which Steersman was not tested"):
        check_version("0.99.0")


def test_the_page_is_written_from_the_table() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.compat.seams_page"
