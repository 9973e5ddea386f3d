"""What is captured out of the running engine is what Hugging Face computes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.inputs import TokensPrompt

from steersman.steering.plan import Plan
from steersman.steering.plan.capture import CAPTURE_KEY, Capture, CaptureResult
from steersman.steering.plan.inbox import CAPTURES
from steersman.steering.plan.plan import PLAN_KEY
from steersman.vectors.tensors import HookPoint
from tests.engine.conftest import LAYERS, Shelf
from tests.reference.reference import ReferenceModel
from tests.support.engine.engine import Ask, Engine, parameters

EVERYWHERE = tuple(HookPoint("resid_post", layer) for layer in range(LAYERS))
BRANCHES = (
    HookPoint("attn_out", 3),
    HookPoint("mlp_out", 3),
    HookPoint("attn_out", 17),
    HookPoint("resid_post", 17),
)
CLOSE = 1e-4
"""Largest difference, as a share of the norm of what is captured."""


@dataclass(frozen=True)
class Wish:
    prompt: tuple[int, ...]
    start: int
    stop: int
    terms: tuple[HookPoint, ...] = EVERYWHERE
    each: bool = False
    tokens: int = 1
    plan: Plan | None = None


def captured(
    engine: Engine, *wishes: Wish, among: Sequence[Ask] = ()
) -> list[CaptureResult | None]:
    """All of them in one batch, with other requests."""
    prompts = [TokensPrompt(prompt_token_ids=list(w.prompt)) for w in wishes]
    params = []
    for n, w in enumerate(wishes):
        capture = Capture(f"c{n}", w.terms, w.start, w.stop, w.each)
        CAPTURES.open(capture)
        extra = {CAPTURE_KEY: capture.to_json()}
        if w.plan:
            extra[PLAN_KEY] = w.plan.to_json()
        params.append(
            SamplingParams(
                temperature=0, max_tokens=w.tokens, ignore_eos=True, extra_args=extra,
                skip_reading_prefix_cache=True,
            )
        )  # fmt: skip
    prompts += [TokensPrompt(prompt_token_ids=list(a.prompt)) for a in among]
    params += [parameters(a) for a in among]
    try:
        outputs = engine.llm.generate(prompts, params, use_tqdm=False)
        captured.said = [tuple(o.outputs[0].token_ids) for o in outputs]  # type: ignore[attr-defined]
    finally:
        found = [CAPTURES.close(f"c{n}") for n in range(len(wishes))]
    return found


def said(n: int) -> tuple[int, ...]:
    """What the n-th request of the latest batch answered."""
    answer: tuple[int, ...] = captured.said[n]  # type: ignore[attr-defined]
    return answer


def check(
    reference: ReferenceModel, wish: Wish, found: CaptureResult | None, tokens: Sequence[int]
) -> float:
    """Worst difference as a share of the norm; asserts that all tokens wanted are there."""
    assert found is not None
    streams = reference.streams(tokens, wish.terms).transpose(0, 1).numpy()
    whole = streams[wish.start : wish.stop]
    assert found.tokens == len(whole)
    expected = whole if wish.each else whole.astype(np.float64).mean(0)
    assert found.values.shape == expected.shape
    off = np.linalg.norm(found.values - expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    assert off.max() <= CLOSE
    return float(off.max())


def wishes(text_ids: list[int]) -> list[Wish]:
    """Last token, answer letter, means over a part, each token, and other places."""
    return [
        Wish(tuple(text_ids[:40]), 39, 40),
        Wish(tuple(text_ids[5:50]), 43, 44),
        Wish(tuple(text_ids[10:110]), 1, 100),
        Wish(tuple(text_ids[60:85]), 10, 20, each=True),
        Wish(tuple(text_ids[20:90]), 1, 70, BRANCHES),
        Wish(tuple(text_ids[:1]), 0, 1),
    ]


@pytest.mark.parametrize("kind", ["engine", "cramped"])
def test_hidden_states(
    kind: str,
    request: pytest.FixtureRequest,
    reference: ReferenceModel,
    text_ids: list[int],
    shelf: Shelf,
) -> None:
    """In one batch with others, steered and not, whose answers must not change; on the cramped
    engine in chunks of 16 tokens, with preemptions."""
    engine: Engine = request.getfixturevalue(kind)
    others = [
        Ask(tuple(text_ids[n : n + 33]), shelf.plan(3, 0.5, (4, 20)) if n % 2 else None, 6)
        for n in range(4)
    ]
    engine.forget()
    alone = engine.ask(*others)
    engine.forget()
    asked = wishes(text_ids)
    found = captured(engine, *asked, among=others)
    for n, (wish, one) in enumerate(zip(asked, found, strict=True)):
        check(reference, wish, one, [*wish.prompt, *said(n)][: max(wish.stop, len(wish.prompt))])
    assert [said(len(asked) + n) for n in range(4)] == [a.tokens for a in alone]


def test_new_tokens_one_by_one(
    engine: Engine, reference: ReferenceModel, text_ids: list[int]
) -> None:
    """Greedy steps, the last prompt token being the first; the answer's last token is sampled and
    never computed."""
    wish = Wish(
        tuple(text_ids[:30]),
        29,
        60,
        (HookPoint("attn_out", 5), HookPoint("resid_post", 5)),
        True,
        8,
    )
    (found,) = captured(engine, wish)
    check(reference, wish, found, [*wish.prompt, *said(0)[:-1]])
    assert found is not None
    assert found.tokens == 8


def test_the_prefix_cache_hides_no_token(
    engine: Engine, reference: ReferenceModel, text_ids: list[int]
) -> None:
    engine.forget()
    wish = Wish(tuple(text_ids[:100]), 1, 100)
    engine.ask(Ask(wish.prompt))
    (found,) = captured(engine, wish)
    check(reference, wish, found, wish.prompt)


def test_capture_comes_after_the_addition(
    engine: Engine, text_ids: list[int], shelf: Shelf
) -> None:
    prompt, terms = tuple(text_ids[:20]), (HookPoint("resid_post", 9), HookPoint("resid_post", 8))
    plan = shelf.plan(2, 0.7, (9,), "all")
    plain, steered = captured(
        engine, Wish(prompt, 12, 13, terms), Wish(prompt, 12, 13, terms, plan=plan)
    )
    assert plain is not None
    assert steered is not None
    added = steered.values - plain.values
    wanted = 0.7 * shelf.vector(2).tensors[HookPoint("resid_post", 9)].numpy()
    np.testing.assert_allclose(added[0], wanted, atol=CLOSE * float(np.linalg.norm(wanted)))
    np.testing.assert_array_equal(added[1], 0)


def test_nobody_else_may_capture(engine: Engine) -> None:
    stranger = Capture("never opened", EVERYWHERE, 0, 1)
    params = SamplingParams(max_tokens=1, extra_args={CAPTURE_KEY: stranger.to_json()})
    with pytest.raises(VLLMValidationError, match="is reserved"):
        engine.llm.generate([TokensPrompt(prompt_token_ids=[1, 2])], params, use_tqdm=False)
