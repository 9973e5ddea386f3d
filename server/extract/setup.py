"""What extraction needs of one API server, put together at its start."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from server.extract.fit import Place
from server.extract.job import Bench
from server.state import Steersman
from vectors.errors import VectorInvalid, shown
from vectors.format import BaseModel

MOST_ROW_BYTES = 2 << 30
"""Rows of one job, on disk; they are mapped into memory for the fit."""


def make_bench(state: Steersman, engine: Any, *, listens: bool) -> Bench:
    """`listens`: whether the engine runs the model's Python, where captures are taken."""
    model = state.model
    base = BaseModel(model["id"], model["hidden_size"], model["num_layers"], model["fingerprint"])

    def place(site: str, layers: tuple[int, ...]) -> Place:
        if not listens:
            raise VectorInvalid(
                "vLLM's V2 model runner runs compiled graphs here, out of which nothing can be "
                "captured: start with --enforce-eager, or with VLLM_USE_V2_MODEL_RUNNER=0",
                param="method",
                code="capture_unavailable",
            )
        if site not in model["sites"]:
            raise VectorInvalid(
                f"{shown(site)} cannot be read in this model; sites are "
                f"{', '.join(model['sites'])}",
                param="site",
                code="site_not_supported",
            )
        for layer in layers:
            if not 0 <= layer < model["num_layers"]:
                raise VectorInvalid(
                    f"layer {layer} does not exist; this model has layers "
                    f"0..{model['num_layers'] - 1}",
                    param="layers",
                    code="layer_out_of_range",
                )
        chosen = tuple(sorted(set(layers))) or tuple(range(model["num_layers"]))
        return Place(site, chosen, _norms(state.doses.medians, chosen), base)

    return Bench(
        engine=engine,
        tokenizer=engine.renderer.tokenizer,
        library=state.library,
        most_tokens=engine.vllm_config.model_config.max_model_len,
        most_row_bytes=MOST_ROW_BYTES,
        scratch=Path(state.settings.library) / "jobs",
        place=place,
        on_change=state.on_change,
    )


def _norms(
    medians: Mapping[str, float] | None, layers: tuple[int, ...]
) -> tuple[float, ...] | None:
    """Those of the residual stream, which a branch joins."""
    if medians is None:
        return None
    return tuple(medians[f"resid_post.{layer}"] for layer in layers)
