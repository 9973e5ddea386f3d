"""A tokenizer of characters, and an engine whose residual stream is made up."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from steersman.server.auth.library_view import LibraryView
from steersman.server.auth.permissions import OPEN
from steersman.server.extraction.context import ExtractionContext
from steersman.server.extraction.fit import Place
from steersman.steering.plan.capture import Capture, CaptureChunk
from steersman.steering.plan.inbox import CAPTURES
from steersman.vectors.file.format import BaseModel
from steersman.vectors.library.library import Library
from steersman.vectors.methods import PROJECTION_INPUT

HIDDEN, LAYERS = 6, 3


class Tokenizer:
    """A token a character; picky about surrogates, as the real ones are."""

    def __call__(self, text: str, add_special_tokens: bool = True) -> Any:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise TypeError("TextEncodeInput must be ...") from None
        return SimpleNamespace(input_ids=[ord(c) for c in text])

    def decode(self, tokens: list[int]) -> str:
        return "".join(map(chr, tokens))

    def apply_chat_template(self, messages: list[dict[str, str]], **_: bool) -> str:
        for message in messages:
            if message["role"] not in ("user", "assistant"):
                raise ValueError(f"unknown role {message['role']}")
        return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>"


class Engine:
    """Answers in no time, but for texts in `slow`, which wait until `go` is set."""

    def __init__(self, slow: tuple[str, ...] = ()) -> None:
        self.output_processor = SimpleNamespace(get_num_unfinished_requests=lambda: 0)
        self.asked: list[tuple[str, Any]] = []
        self.waits, self.go = asyncio.Event(), asyncio.Event()
        self._slow = slow

    async def generate(self, prompt: Any, params: Any, receipt: str) -> Any:
        text = "".join(map(chr, prompt["prompt_token_ids"]))
        self.asked.append((text, params))
        await asyncio.sleep(0)
        if text in self._slow:
            self.waits.set()
            await self.go.wait()
        capture = Capture.of(params.extra_args)
        assert capture is not None
        tokens = capture.stop - capture.start
        stream = stream_of(text)[[layer for _, layer in capture.terms]]
        samples = np.stack([stream] * tokens) if capture.each else tokens * stream[None]
        CAPTURES.deliver(CaptureChunk(receipt, tokens, samples.astype(np.float32).tobytes()))
        yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=[0] * params.max_tokens)])


def stream_of(text: str) -> Any:
    """float32 [layers, hidden], of this text alone."""
    seed = sum(ord(c) << n % 16 for n, c in enumerate(text))
    return np.random.default_rng(seed).standard_normal((LAYERS, HIDDEN)).astype(np.float32)


def _unsteered() -> Any:
    raise NotImplementedError("this engine is not steered")


def make_context(
    folder: Path, engine: Engine, most_activation_bytes: int = 1 << 20
) -> ExtractionContext:
    base = BaseModel("m", HIDDEN, LAYERS, "f")

    def place(site: str, layers: tuple[int, ...]) -> Place:
        read_at = "attn_out" if site == PROJECTION_INPUT else site
        return Place(read_at, layers or tuple(range(LAYERS)), None, base)

    return ExtractionContext(
        engine=engine,
        tokenizer=Tokenizer(),
        library=LibraryView(Library(folder, hidden_size=HIDDEN, num_layers=LAYERS), OPEN, 100),
        most_tokens=100,
        most_activation_bytes=most_activation_bytes,
        scratch=folder / "jobs",
        extract_share=0.25,
        place=place,
        on_change=lambda *_: None,
        steering=_unsteered,
        tries=True,
    )
