"""Where an extraction reads, and what it is refused for, without an engine."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steersman.server.doses import Doses
from steersman.server.extraction.context import make_context
from steersman.steering.plan import Limits, Settings
from steersman.vectors.errors import VectorInvalid
from steersman.vectors.methods import METHODS

LAYERS = 4
PER_STEP = METHODS["per_step"].sites[0]


def place(
    site: str, folder: Path, *, quantization: str | None = None, captures: bool = True
) -> Any:
    """What `ExtractionContext.place` says of `site`, all layers."""
    model = SimpleNamespace(max_model_len=64, quantization=quantization)
    settings = Settings.read({"steersman": {"library": str(folder)}})
    state: Any = SimpleNamespace(
        model={
            "id": "m", "hidden_size": 8, "num_layers": LAYERS, "fingerprint": "f",
            "sites": ["resid_post", "attn_out"], "captures": captures,
        },
        settings=settings,
        limits=Limits.of(settings, LAYERS),
        all_doses=Doses(None, None),
        library_for=lambda _: None,
        on_change=None,
        inline=None,
    )  # fmt: skip
    engine = SimpleNamespace(
        vllm_config=SimpleNamespace(model_config=model), renderer=SimpleNamespace(tokenizer=None)
    )
    return make_context(state, engine).place(site, ())


def test_per_step_reads_behind_the_projection(tmp_path: Path) -> None:
    assert place(PER_STEP, tmp_path).site == "attn_out"


def test_per_step_wants_a_linear_projection(tmp_path: Path) -> None:
    with pytest.raises(VectorInvalid, match=r"per_step.*quantised \(fp8\)") as caught:
        place(PER_STEP, tmp_path, quantization="fp8")
    assert (caught.value.param, caught.value.code) == ("method", "projection_quantised")
    # Whoever asks for the output gets it, by whatever method.
    for site in ("attn_out", "resid_post"):
        assert place(site, tmp_path, quantization="fp8").site == site


def test_an_engine_that_captures_nothing_makes_no_vector(tmp_path: Path) -> None:
    with pytest.raises(VectorInvalid, match="without --pipeline-parallel-size") as caught:
        place("resid_post", tmp_path, captures=False)
    assert (caught.value.param, caught.value.code) == ("method", "not_supported")
