"""Both prompts as tokens, and what is patched."""

from dataclasses import dataclass
from typing import Any, Final

from steersman.server.extraction.context import ExtractionContext
from steersman.server.extraction.examples import BadSample
from steersman.server.extraction.request import ExtractRequest
from steersman.server.extraction.samples import Sample, is_unicode
from steersman.server.patching.request import Direction, PatchRequest
from steersman.vectors.errors import VectorInvalid
from steersman.vectors.tensors import HookPoint

READING: Final = ExtractRequest.model_validate(
    {"method": "mean_difference", "name": "patch", "tokens": "last"}
)
"""How an extraction reads a prompt: as it is, or by the chat template."""


@dataclass(frozen=True)
class Patches:
    """What is run: each hook point and position, in each direction."""

    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    """Tokens, as many as `clean` has."""
    answers: tuple[tuple[int, ...], tuple[int, ...]]
    points: tuple[HookPoint, ...]
    positions: range
    directions: tuple[Direction, ...]

    def into(self, direction: Direction) -> tuple[int, ...]:
        """The prompt that is patched in this direction."""
        return self.corrupted if direction == "denoising" else self.clean

    def source(self, direction: Direction) -> tuple[int, ...]:
        """The prompt whose stream is put there."""
        return self.clean if direction == "denoising" else self.corrupted

    @property
    def runs(self) -> int:
        """Number of patched runs."""
        return len(self.directions) * len(self.positions) * len(self.points)


def read_prompts(
    wanted: PatchRequest, context: ExtractionContext, num_layers: int, most_runs: int
) -> Patches:
    """The runs that `wanted` asks for, at most `most_runs`. Raises `VectorInvalid`."""
    answers = tuple(_answer(n, text, context.tokenizer) for n, text in enumerate(wanted.answers))
    longest = max(map(len, answers))
    clean = _prompt("clean", wanted.clean, context, longest)
    corrupted = _prompt("corrupted", wanted.corrupted, context, longest)
    if len(clean) != len(corrupted):
        raise VectorInvalid(
            f"clean has {len(clean)} tokens and corrupted {len(corrupted)}; the stream of one goes "
            "into the other token by token, so reword one of them until both have as many",
            param="corrupted",
            code="lengths_differ",
        )
    differ = [n for n, pair in enumerate(zip(clean, corrupted, strict=True)) if pair[0] != pair[1]]
    if not differ:
        raise VectorInvalid(
            "clean and corrupted are the same tokens; change what matters in one of them",
            param="corrupted",
            code="same_prompts",
        )
    if answers[0] == answers[1]:
        raise VectorInvalid(
            "both answers are the same tokens; send what each prompt makes likely",
            param="answers",
            code="same_answers",
        )
    found = Patches(
        clean,
        corrupted,
        (answers[0], answers[1]),
        wanted.points(num_layers),
        _positions(wanted, differ[0], len(clean)),
        tuple(dict.fromkeys(wanted.directions)),
    )
    if found.runs > most_runs:
        raise VectorInvalid(
            f"{len(found.points)} hook points at {len(found.positions)} tokens in "
            f"{len(found.directions)} directions are {found.runs} runs, at most {most_runs} are "
            "made (--max-extract-rows); name fewer hook points, tokens or directions",
            param="hook_points",
            code="too_many_rows",
        )
    return found


def _prompt(
    param: str, text: str | list[Any], context: ExtractionContext, answer: int
) -> tuple[int, ...]:
    try:
        tokens = context.reader(READING).read(Sample(1, (param, 1), param, text, None)).tokens
        if len(tokens) + answer > context.most_tokens - 1:
            raise BadSample(f"has {len(tokens)} tokens, more than fit this server with an answer")
    except BadSample as error:
        raise VectorInvalid(f"{param} {error}", param=param, code="bad_text") from None
    return tokens


def _answer(n: int, text: str, tokenizer: Any) -> tuple[int, ...]:
    ids = tokenizer(text, add_special_tokens=False).input_ids if is_unicode(text) else ()
    if not ids:
        raise VectorInvalid(
            f"answers[{n}] has no token; send a word, as in ' Paris'",
            param=f"answers[{n}]",
            code="bad_text",
        )
    return tuple(ids)


def _positions(wanted: PatchRequest, first: int, end: int) -> range:
    """What is patched of prompts of `end` tokens that differ from token `first` on."""
    if wanted.tokens is None:
        return range(first, end)
    start, stop, _ = slice(wanted.tokens.start, wanted.tokens.stop).indices(end)
    if start >= stop:
        raise VectorInvalid(
            f"both prompts have {end} tokens, none of them in the range",
            param="tokens",
            code="bad_range",
        )
    return range(start, stop)
