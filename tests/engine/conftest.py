"""Real engines, shared by all tests of this folder.

They run inside the test process: what is asked together is one batch, the same every time.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from steersman.steering.plan import Plan, PlannedVector, PositionRule
from steersman.steering.plan.plan import as_float32
from steersman.steering.plan.settings import default_home
from steersman.vectors.demo.model import prepare_model
from steersman.vectors.file.format import HookPoint, SteeringVector, write_vector
from steersman.vectors.library.library import Library
from tests.reference.reference import ReferenceModel
from tests.support.engine.engine import Engine, give_back_memory

SITES = ("resid_post", "attn_out", "mlp_out")
LAYERS, HIDDEN = 30, 576
TEXT = (
    "The ferry leaves the harbour at seven in the morning. On board there is a small kitchen, "
    "and the cook, a quiet man from the north, bakes bread while the passengers watch the coast "
    "go by. In winter the crossing takes twice as long, because of the ice and the wind, and "
    "nobody is in a hurry. Children count the lighthouses; there are eleven of them, and the "
    "last one is red. When the ship comes in, somebody always waves from the pier, and the crew "
    "throws the ropes, and another day in the town begins with coffee and the newspaper."
)


@pytest.fixture(scope="package")
def model() -> Path:
    return prepare_model(default_home(), lambda line: print(line, file=sys.stderr))


@pytest.fixture(scope="package")
def reference(model: Path) -> ReferenceModel:
    return ReferenceModel(model)


@pytest.fixture(scope="package")
def text_ids(model: Path) -> list[int]:
    """Some hundred tokens of plain English, to cut prompts from."""
    from transformers import AutoTokenizer

    ids: list[int] = AutoTokenizer.from_pretrained(model)(TEXT * 3)["input_ids"]
    return ids


@pytest.fixture(scope="package")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("library")


@pytest.fixture(scope="package")
def stream_norms(reference: ReferenceModel, text_ids: list[int]) -> list[float]:
    """Median norm of the residual stream before each block, the first token left out."""
    with torch.no_grad():
        states = reference.model(
            input_ids=torch.tensor([text_ids[:200]]), output_hidden_states=True
        ).hidden_states
    return [float(state[0, 1:].norm(dim=-1).median()) for state in states[:-1]]


class Shelf:
    """Random vectors, each as long as the stream where it is added: a coefficient is a dose."""

    def __init__(self, library: Path, norms: list[float], hidden: int = HIDDEN) -> None:
        """`norms`: of the stream before each block."""
        self.library = Library(library)
        self.hidden = hidden
        behind = [*norms[1:], norms[-1]]
        self.norms = {"attn_out": norms, "mlp_out": behind, "resid_post": behind}
        self.vectors: dict[int, SteeringVector] = {}
        self.stepping: dict[str, SteeringVector] = {}

    def vector(self, seed: int) -> SteeringVector:
        """The vector of this seed, in the library."""
        if seed not in self.vectors:
            generator = torch.Generator().manual_seed(seed)
            tensors: dict[HookPoint, torch.Tensor] = {}
            for site in SITES:
                for layer in range(len(self.norms[site])):
                    v = torch.randn(self.hidden, generator=generator)
                    tensors[HookPoint(site, layer)] = v * (self.norms[site][layer] / v.norm())
            self.vectors[seed] = SteeringVector(tensors)
            self.library.add(write_vector(self.vectors[seed]), f"v{seed}")
        return self.vectors[seed]

    def stepped(self, seed: int, steps: int) -> SteeringVector:
        """A vector with a tensor for each generated token, [steps, hidden], at each block."""
        name = f"v{seed}-{steps}"
        if name not in self.stepping:
            generator = torch.Generator().manual_seed(1000 + seed)
            tensors: dict[HookPoint, torch.Tensor] = {}
            for layer, norm in enumerate(self.norms["resid_post"]):
                v = torch.randn(steps, self.hidden, generator=generator)
                tensors[HookPoint("resid_post", layer)] = v * (norm / v.norm(dim=1, keepdim=True))
            self.stepping[name] = SteeringVector(tensors)
            self.library.add(write_vector(self.stepping[name]), name)
        return self.stepping[name]

    def zero(self) -> SteeringVector:
        """A vector that adds nothing."""
        tensors: dict[HookPoint, torch.Tensor] = {
            HookPoint("resid_post", layer): torch.zeros(self.hidden)
            for layer in range(len(self.norms["resid_post"]))
        }
        vector = SteeringVector(tensors)
        self.library.add(write_vector(vector), "zero")
        return vector

    def planned(
        self,
        seed: int,
        coefficient: float,
        layers: tuple[int, ...],
        positions: PositionRule = "generation",
        site: str = "resid_post",
    ) -> PlannedVector:
        terms = tuple(HookPoint(site, layer) for layer in sorted(layers))
        return PlannedVector(self.vector(seed).digest, as_float32(coefficient), terms, positions)

    def plan(self, *args: Any, **kwargs: Any) -> Plan:
        """A plan of one vector."""
        return Plan((self.planned(*args, **kwargs),))

    def path(self, seed: int) -> Path:
        hexes = self.vector(seed).digest.removeprefix("sha256:")
        return self.library.root / "objects" / f"{hexes}.safetensors"

    @contextmanager
    def vanishing(self, seed: int) -> Iterator[Callable[[], object]]:
        """Gives a function that takes the file of this vector away until the block ends."""
        path = self.path(seed)
        away = path.with_suffix(".away")
        try:
            yield lambda: shutil.move(path, away)
        finally:
            if away.exists():
                away.rename(path)


@pytest.fixture(scope="package")
def shelf(library: Path, stream_norms: list[float]) -> Shelf:
    return Shelf(library, stream_norms)


@pytest.fixture(scope="package")
def start_engine(model: Path, library: Path) -> Iterator[Callable[..., Engine]]:
    """Starts engines. The process gets back the processor cores that vLLM's workers bind it to."""
    cores = os.sched_getaffinity(0)
    settings = {
        "VLLM_PLUGINS": "steersman",
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_CPU_OMP_THREADS_BIND": os.environ.get(
            "VLLM_CPU_OMP_THREADS_BIND", f"{min(cores)}-{max(cores)}"
        ),
    }
    engines: list[Engine] = []

    def start(steersman: dict[str, Any] | None = None, **options: Any) -> Engine:
        from vllm import LLM

        with pytest.MonkeyPatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(name, value)
            kept = dict(os.environ)
            try:
                llm = LLM(
                    str(options.pop("model", model)),
                    dtype="float32",
                    enforce_eager=True,
                    disable_log_stats=False,
                    additional_config={"steersman": {"library": str(library), **(steersman or {})}},
                    **{"block_size": 32, "max_model_len": 1024, "seed": 0} | options,
                )
            finally:
                os.environ.clear()
                os.environ.update(kept)
                os.sched_setaffinity(0, cores)
        engines.append(Engine(llm))
        return engines[-1]

    yield start
    engines.clear()
    give_back_memory()


@pytest.fixture(scope="package")
def engine(start_engine: Callable[..., Engine]) -> Engine:
    """The engine that most tests share: prefix cache on, room for every batch here at once."""
    return start_engine(
        {"max_segments": 8}, kv_cache_memory_bytes=2**29, max_num_batched_tokens=2048
    )


@pytest.fixture(scope="package")
def cramped(start_engine: Callable[..., Engine]) -> Engine:
    """Sixteen tokens a step, cache for eight blocks of 32 tokens and not for prefixes, a bank of
    24 rows."""
    return start_engine(
        {"bank_rows": 24},
        max_num_batched_tokens=16,
        max_num_seqs=8,
        max_model_len=192,
        enable_prefix_caching=False,
        num_gpu_blocks_override=9,
        kv_cache_memory_bytes=2**26,
    )
