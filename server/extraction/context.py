"""What extraction needs of one API server, collected at its start."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steersman.server.auth.library_view import LibraryView
from steersman.server.auth.permissions import OPEN
from steersman.server.chat.steered_request import SteeringContext
from steersman.server.extraction.examples import Reader
from steersman.server.extraction.fit import Place
from steersman.server.extraction.request import ExtractRequest
from steersman.server.state import Steersman
from steersman.vectors.errors import VectorInvalid, shown
from steersman.vectors.file.format import BaseModel
from steersman.vectors.methods import PROJECTION_INPUT
from steersman.vectors.operation import OPERATIONS
from steersman.vectors.served import switched_on

MOST_ACTIVATION_BYTES = 2 << 30
"""Activations of one job, on disk; they are mapped into memory for the fit."""


@dataclass(frozen=True)
class ExtractionContext:
    """What jobs need."""

    engine: Any
    tokenizer: Any
    library: LibraryView
    """As whoever submitted the job sees it."""
    most_tokens: int
    """The model's context, in tokens."""
    most_activation_bytes: int
    """Of a job's rows, on disk; of `per_step`'s, in memory."""
    scratch: Path
    extract_share: float
    """Of the engine, while others use it."""
    place: Callable[[str, tuple[int, ...]], Place]
    """(site, layers) -> what is known of it."""
    on_change: Callable[[str, str, str | None], None]
    steering: Callable[[], SteeringContext]
    """What runs of a job are steered by."""
    tries: bool
    """Whether candidates can be tried: their vectors come in requests."""
    max_steps: int | None = None
    """Most generation steps of a vector that the server takes."""
    chat_template: str | None = None
    """The server's own; None: the tokenizer's."""
    operations: tuple[str, ...] = OPERATIONS
    """What the server does with vectors."""

    def reader(self, request: ExtractRequest) -> Reader:
        """A reader of the texts of `request`."""
        return Reader(request, self.tokenizer, self.most_tokens, self.chat_template)


def make_context(
    state: Steersman, engine: Any, *, chat_template: str | None = None
) -> ExtractionContext:
    """Collect what jobs need. `chat_template`: the server's option, a file or a template."""
    model = state.model
    base = BaseModel(model["id"], model["hidden_size"], model["num_layers"], model["fingerprint"])

    def place(site: str, layers: tuple[int, ...]) -> Place:
        if not model["captures"]:
            raise VectorInvalid(
                "no vector can be made under pipeline parallel: make it on a server without "
                "--pipeline-parallel-size, and upload it here",
                param="method",
                code="not_supported",
            )
        if site == PROJECTION_INPUT:
            # Quantised weights alone leave it linear; but the name of a scheme does not tell.
            quantised = engine.vllm_config.model_config.quantization
            if quantised is not None:
                raise VectorInvalid(
                    "per_step needs attention whose output projection is linear, and this model is "
                    f"quantised ({quantised}): make the vector on the model in full precision, or "
                    "with site attn_out, which takes the projection's output as it is",
                    param="method",
                    code="projection_quantised",
                )
            site = "attn_out"
        if site not in model["sites"]:
            raise VectorInvalid(
                f"no vector can be made for {shown(site)} here; sites are "
                f"{', '.join(model['sites'])}{switched_on(site)}",
                param="site",
                code="site_not_supported",
            )
        for layer in layers:
            state.limits.check_layer(layer, "layers")
        chosen = tuple(sorted(set(layers))) or tuple(range(model["num_layers"]))
        norms = None
        if state.all_doses.medians is not None:
            norms = tuple(state.all_doses.stream_norm(layer) for layer in chosen)
        return Place(site, chosen, norms, base)

    return ExtractionContext(
        engine=engine,
        tokenizer=engine.renderer.tokenizer,
        library=state.library_for(OPEN),
        most_tokens=engine.vllm_config.model_config.max_model_len,
        most_activation_bytes=MOST_ACTIVATION_BYTES,
        scratch=Path(state.settings.library) / "jobs",
        extract_share=state.settings.extract_share,
        operations=state.limits.operations,
        place=place,
        on_change=state.on_change,
        steering=lambda: state.steering_for(OPEN),
        tries=state.inline is not None,
        max_steps=state.limits.max_steps,
        chat_template=_template(chat_template),
    )


def _template(option: str | None) -> str | None:
    """The template that vLLM's --chat-template gives, as a file or as text."""
    if option is None or "{" in option or "\n" in option:
        return option
    return Path(option).read_text(encoding="utf-8")
