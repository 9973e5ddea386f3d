"""What a request reads is what Hugging Face computes, and reading changes nothing."""

import pytest

from steersman.steering.plan import Plan
from tests.engine.conftest import Shelf
from tests.reference.reference import ReferenceModel
from tests.support.engine.engine import Ask, Engine
from tests.support.engine.reads import Case, cases, check, read


@pytest.mark.parametrize("kind", ["engine", "cramped"])
def test_reads_equal_the_reference(
    kind: str,
    request: pytest.FixtureRequest,
    reference: ReferenceModel,
    text_ids: list[int],
    shelf: Shelf,
) -> None:
    """In one batch with others; on the cramped engine in chunks of 16 tokens, with preemptions."""
    engine: Engine = request.getfixturevalue(kind)
    prompts = [
        tuple(text_ids[n : n + length])
        for n, length in enumerate((40, 33, 5, 50, 20, 37, 1, 60, 44))
    ]
    asked = cases(shelf, prompts, 30 if kind == "cramped" else 5)
    others = [Ask(tuple(text_ids[n : n + 33]), None, 6) for n in range(70, 74)]
    # The second time the vectors are in the bank, and nobody waits: the batches are the same.
    engine.ask(*(case.ask for case in asked))
    engine.forget()
    preempted = engine.metric("vllm:num_preemptions")
    found = engine.noted(*(case.ask for case in asked), *others)
    assert (engine.metric("vllm:num_preemptions") > preempted) == (kind == "cramped")
    worst = 0.0
    for case, (answer, (note,)) in zip(asked, found, strict=False):
        worst = max(worst, check(reference, shelf, case, answer, note))
    print(f"\nreads, {kind}: worst difference {worst:.1e}")
    engine.forget()
    without = engine.ask(*(case.without_reads for case in asked), *others)
    # Where an addition is read at its own site, it is made there and not behind the block.
    moved = [n for n, case in enumerate(asked) if case.plan.reads]
    kept = [n for n in range(len(found)) if n not in moved]
    assert len(kept) > len(moved) > 0
    assert [found[n][0] for n in kept] == [without[n] for n in kept]


def test_the_prefix_cache_hides_no_token_that_is_read(
    engine: Engine, reference: ReferenceModel, text_ids: list[int], shelf: Shelf
) -> None:
    prompt = tuple(text_ids[:100])
    of_prompt = Case(
        Ask(prompt, Plan((), readouts=(read(shelf, 1, (("resid_post", 3),), tokens="prompt"),)))
    )
    of_answer = Case(Ask(prompt, Plan((), readouts=(read(shelf, 1, (("resid_post", 3),)),))))
    engine.forget()
    engine.ask(Ask(prompt))
    (answer, (note,)), (later, (latter,)) = engine.noted(of_prompt.ask, of_answer.ask)
    assert (answer.cached, later.cached) == (0, 96)
    check(reference, shelf, of_prompt, answer, note)
    check(reference, shelf, of_answer, later, latter)
    assert note.steered_tokens == ()


def test_reads_beyond_the_limit_are_refused(engine: Engine, shelf: Shelf) -> None:
    """Sixty-four hook points on four thousand tokens, say."""
    points = tuple((site, layer) for site in ("resid_post", "mlp_out") for layer in range(30))
    wide = Plan((), readouts=(read(shelf, 1, points, tokens="prompt"),) * 20)
    with pytest.raises(Exception, match="--max-read-values"):
        engine.ask(Ask((1,) * 100, wide))


def test_nothing_stays_behind(engine: Engine, shelf: Shelf, text_ids: list[int]) -> None:
    before = engine.left()
    plan = Plan((), readouts=(read(shelf, 1, (("resid_post", 3),)),))
    engine.ask(*(Ask(tuple(text_ids[n : n + 9]), plan) for n in range(4)))
    assert engine.left()[:4] == before[:4]
