"""torch.compile keeps the operation, and vLLM's compile cache never serves a graph without it.

vLLM saves compiled graphs by a key of its configuration and environment, which here are the same
for all engines: only what Steersman puts into the key can tell them apart.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.reference.reference import ReferenceModel
from tests.support.matrix import judge
from tests.support.matrix.bench import Bench
from tests.support.matrix.results import way
from tests.support.matrix.start import OPTIONS, ROOT, base_environment

pytestmark = pytest.mark.matrix

WITHOUT_STEERSMAN = """
import steersman.steering.vllm.plugin
steersman.steering.vllm.plugin.register = lambda: None
"""

WITHOUT_ITS_KEY = """
import steersman.steering.vllm.compile_cache
assert steersman.steering.vllm.compile_cache.install
steersman.steering.vllm.compile_cache.install = lambda: None
"""

# On a CPU vLLM compiles in another mode than on GPUs, in which it cannot load what it has saved
# ('function' object has no attribute 'finalize_loading') and compiles anew each time.
AS_ON_GPUS = """
from vllm.platforms.cpu import CpuPlatform
check = CpuPlatform.check_and_update_config.__func__
def keep_the_mode(cls, config):
    compilation = config.compilation_config
    kept = compilation.mode, compilation.backend, compilation.ir_enable_torch_wrap
    check(cls, config)
    compilation.mode, compilation.backend, compilation.ir_enable_torch_wrap = kept
    compilation.compile_sizes = []
CpuPlatform.check_and_update_config = classmethod(keep_the_mode)
# It names operations that only GPU builds of vLLM have.
from vllm.compilation.passes.utility.fix_functionalization import FixFunctionalizationPass
FixFunctionalizationPass.__call__ = lambda self, graph: None
"""

RUN = """
from pathlib import Path
from tests.support.matrix.child import main
main(Path(sys.argv[1]), Path(sys.argv[2]))
"""

LOADED = "Directly load AOT compilation from path"


@dataclass(frozen=True)
class Ended:
    """An engine that ran: its answers by exam (none if it did not start), and its log."""

    answers: dict[str, Any]
    log: str


def compiled(bench: Bench, folder: Path, exam: str, *before: str) -> Ended:
    """Start a compiled engine in a process of its own, with its caches in `folder`, after running
    the code `before`, and hold one exam."""
    order, answers = folder / "order.json", folder / "answers.json"
    answers.unlink(missing_ok=True)
    asks = [(one.prompt, one.plan and one.plan.to_json(), one.tokens) for one in bench.asks]
    steersman = {"library": str(bench.library), "max_segments": 8}
    options = {
        **OPTIONS,
        "model": str(bench.model),
        "enforce_eager": False,
        "additional_config": {"steersman": steersman},
    }
    order.write_text(json.dumps({"options": options, "asks": asks, "exams": {exam: {}}}))
    ended = subprocess.run(
        [sys.executable, "-c", "import sys\n" + "".join(before) + RUN, str(order), str(answers)],
        env={
            **os.environ,
            **base_environment(),
            "VLLM_LOGGING_LEVEL": "INFO",
            "VLLM_CACHE_ROOT": str(folder / "vllm"),
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        },
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=800,
        check=False,
    )
    found = json.loads(answers.read_text())[exam] if answers.exists() else {}
    return Ended(found, ended.stdout[-30_000:])


def test_compiled_on_a_cpu(bench: Bench, expected: dict[str, Any], tmp_path: Path) -> None:
    with way("torch.compile, as on CPUs") as row:
        found = compiled(bench, tmp_path, "standard")
        assert found.answers, found.log
        worst = judge.standard(bench.asks, found.answers, expected)
        row.steered(f"log-probabilities within {worst:.0e} of the eager engine's")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def without(bench: Bench, cache: Path) -> Ended:
    """vLLM without Steersman, from an empty cache: its graph is there before any of ours."""
    found = compiled(bench, cache, "alone", WITHOUT_STEERSMAN, AS_ON_GPUS)
    assert found.answers, found.log
    assert LOADED not in found.log
    return found


@pytest.fixture(scope="module")
def steered(bench: Bench, cache: Path, without: Ended) -> Ended:
    """Steersman, with a cache that has nothing but the graph without it."""
    found = compiled(bench, cache, "standard", AS_ON_GPUS)
    assert found.answers, found.log
    assert LOADED not in found.log
    return found


def test_a_cache_made_without_steersman_is_not_used(
    bench: Bench, steered: Ended, expected: dict[str, Any]
) -> None:
    with way("torch.compile, as on GPUs") as row:
        worst = judge.standard(bench.asks, steered.answers, expected)
        row.steered(f"log-probabilities within {worst:.0e} of the eager engine's")


def test_the_graph_with_the_operation_steers_when_it_is_loaded(
    bench: Bench, cache: Path, steered: Ended
) -> None:
    """The loaded graph must add from the tables of the new process."""
    with way("torch.compile, graph from vLLM's cache") as row:
        again = compiled(bench, cache, "standard", AS_ON_GPUS)
        assert LOADED in again.log
        worst = judge.standard(bench.asks, again.answers, steered.answers)
        assert again.answers["mixed"] == steered.answers["mixed"]
        row.steered(f"the same bits as when it was compiled ({worst:.0e})")


def test_captures_pass_the_graphs_by(
    bench: Bench, cache: Path, steered: Ended, tiny_reference: ReferenceModel
) -> None:
    """A step that is listened to runs the model's Python; the next ones the graph again."""
    with way("capture (extraction) under torch.compile") as row:
        found = compiled(bench, cache, "captured", AS_ON_GPUS).answers
        worst = judge.captures(found, tiny_reference)
        read = compiled(bench, cache, "reads", AS_ON_GPUS).answers
        worst = max(worst, judge.reads(bench, read, tiny_reference))
        row.steered(f"the stream within {worst:.0e} of Hugging Face's; answers stay the same")


def test_vllm_without_steersman_loads_its_own(
    bench: Bench, cache: Path, without: Ended, steered: Ended, expected: dict[str, Any]
) -> None:
    again = compiled(bench, cache, "alone", WITHOUT_STEERSMAN, AS_ON_GPUS)
    assert LOADED in again.log
    assert again.answers["mixed"] == without.answers["mixed"]
    judge.same(again.answers["mixed"], expected["unsteered"])


def test_were_the_key_lost_the_start_would_be_refused(
    bench: Bench, cache: Path, without: Ended
) -> None:
    """Then vLLM loads the graph without the operation, and the self-check sees that."""
    found = compiled(bench, cache, "standard", WITHOUT_ITS_KEY, AS_ON_GPUS)
    assert LOADED in found.log
    assert not found.answers
    assert "an addition did not reach the residual stream at " in found.log
