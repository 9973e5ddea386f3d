"""Coefficients out of logits, against the definitions token by token."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steersman.steering.plan import Choice, Dynamic, Plan
from steersman.steering.plan.dynamic import Companion, LastToken
from steersman.steering.plan.errors import NotComposed
from steersman.steering.worker.composition import Composer, divergences, nucleus
from tests.reference.dynamic import divergence
from tests.reference.dynamic import nucleus as plain_nucleus
from tests.support.steering.make import planned

VOCAB = 50


def logits(seed: int, rows: int, sharpness: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, VOCAB, generator=generator) * sharpness


@settings(deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 4),
    st.sampled_from([0.1, 1.0, 4.0, 30.0]),
    st.floats(0.01, 0.99),
    st.booleans(),
)
def test_divergences_are_those_of_the_reference(
    seed: int, properties: int, sharpness: float, top_p: float, mean: bool
) -> None:
    plain, *alone = torch.log_softmax(logits(seed, 1 + properties, sharpness), dim=-1)
    found = divergences(plain, torch.stack(alone), Dynamic(2.0, top_p, mean))
    wanted = [divergence(plain, one, top_p, mean) for one in alone]
    assert found.tolist() == pytest.approx(wanted, abs=1e-5, rel=1e-4)


def test_the_nucleus_has_the_token_that_crosses() -> None:
    chances = torch.tensor([0.1, 0.5, 0.15, 0.25])
    for top_p, size in ((0.3, 1), (0.5, 1), (0.51, 2), (0.74, 2), (0.76, 3), (0.89, 3), (0.91, 4)):
        found = nucleus(chances.log(), top_p)
        assert int(found.sum()) == size
        assert set(found.nonzero().flatten().tolist()) == plain_nucleus(chances.log(), top_p)
    assert bool(nucleus(chances.log(), 1.0).all())


@settings(deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([3000, 12_000]),
    st.sampled_from([0.1, 1.0, 4.0]),
    st.floats(1e-9, 0.9999),
)
def test_the_nucleus_is_that_of_a_stable_sort(
    seed: int, tokens: int, sharpness: float, top_p: float
) -> None:
    """With ties everywhere, and more tokens than are looked at first, in it and behind it."""
    rows = torch.randn(3, tokens, generator=torch.Generator().manual_seed(seed))
    logprobs = torch.log_softmax((rows * sharpness).round(), dim=-1)
    values, order = logprobs.exp().sort(dim=-1, descending=True, stable=True)
    inside = values.cumsum(-1) - values < top_p
    inside[..., 0] = True
    wanted = torch.zeros_like(inside).scatter(-1, order, inside)
    assert torch.equal(nucleus(logprobs, top_p), wanted)


def test_a_union_of_one_token_is_no_divergence() -> None:
    plain = torch.tensor([9.0, 0.0, 0.0])
    alone = torch.tensor([[5.0, 1.0, 0.0], [0.0, 9.0, 0.0]])
    for mean in (True, False):
        found = divergences(plain, alone, Dynamic(2.0, 0.5, mean))
        assert found[0] == 0
        assert found[1] > 1


def composer(streams: int, position: int = 7) -> Composer:
    """An answer "a" whose streams have come to `position`, all but the first a little apart."""
    made = Composer()
    for n in range(streams):
        made.add(f"a{n}", Companion("a", n))
        made.record_logits(f"a{n}", at(position), torch.tensor([1.0, n, 0.0]))
    return made


def at(position: int, token: int = 3) -> LastToken:
    return LastToken(position, token)


def test_coefficients_are_clipped_each_to_its_cap() -> None:
    vectors = tuple(planned(n, cap) for n, cap in enumerate((100.0, 0.25, 0.0, 100.0)))
    plan = Plan(vectors, "", Dynamic(2.0, 1.0, False))
    found = composer(5).choose("a", plan, at(7))
    assert isinstance(found, Choice)
    free, capped, never, other = found.coefficients
    assert (free, other) == (found.divergences[0], found.divergences[3])
    assert capped == 0.25 < found.divergences[1]
    assert never == 0.0 < found.divergences[2]


def test_equal_properties_get_equal_coefficients() -> None:
    same = composer(3)
    same.record_logits("a2", at(7), torch.tensor([1.0, 1.0, 0.0]))
    plan = Plan((planned(1, 9.0), planned(1, 9.0)), "", Dynamic(2.0, 0.9, True))
    one, other = same.choose("a", plan, at(7)).coefficients
    assert one == other > 0


def test_without_all_streams_at_the_token_nothing_is_chosen() -> None:
    plan = Plan((planned(1), planned(2)), "", Dynamic(2.0, 0.95, True))
    with pytest.raises(NotComposed, match="token 7"):
        composer(2).choose("a", plan, at(7))
    late = composer(3)
    late.record_logits("a1", at(6), torch.zeros(3))
    with pytest.raises(NotComposed, match="token 7"):
        late.choose("a", plan, at(7))


def test_a_companion_may_be_ahead_by_a_token() -> None:
    """What it computed before is there until it has computed two more, and what it computed of
    another token is not what the answer needs."""
    plan = Plan((planned(1, 9.0),), "", Dynamic(2.0, 1.0, False))
    made = composer(2)
    wanted = made.choose("a", plan, at(7))
    made.record_logits("a1", at(8, token=5), torch.zeros(3))
    assert made.choose("a", plan, at(7)) == wanted
    made.record_logits("a0", at(8, token=6), torch.zeros(3))
    for token in (5, 6):
        with pytest.raises(NotComposed, match="token 8"):
            made.choose("a", plan, at(8, token))
    made.record_logits("a1", at(8, token=6), torch.tensor([0.0, 1.0, 0.0]))
    assert made.choose("a", plan, at(8, token=6)).divergences[0] > 0
    made.record_logits("a1", at(9), torch.zeros(3))
    with pytest.raises(NotComposed, match="token 7"):
        made.choose("a", plan, at(7))


def test_a_draft_is_taken_from_logits_that_are_right_to_first_order() -> None:
    def likeliest(answer: str, last: LastToken, guessed: torch.Tensor) -> int:
        assert (answer, last) == ("a", at(7))
        return int(guessed.argmax())

    made = Composer()
    for n, row in enumerate(([2.0, 0.0, 0.0], [2.0, 1.5, 0.0], [2.0, 0.0, 1.0])):
        made.add(f"a{n}", Companion("a", n))
        made.record_logits(f"a{n}", at(7), torch.tensor(row))
    plan = Plan((planned(1, 9.0), planned(2, 9.0)), "", Dynamic(0.5, 0.9, False))
    for coefficients, token in (((0.0, 0.0), 0), ((0.6, 0.0), 0), ((0.7, 0.5), 1), ((0.5, 1.1), 2)):
        assert made.draft("a", plan, at(7), Choice(coefficients, (0.0, 0.0)), likeliest) == token
    still = Plan(plan.vectors, "", Dynamic(0.0, 0.9, False))
    assert made.draft("a", still, at(7), Choice((9.0, 9.0), (0.0, 0.0)), likeliest) == 0


def test_what_is_not_a_number_is_no_coefficient() -> None:
    broken = composer(2)
    broken.record_logits("a1", at(7), torch.full((3,), math.nan))
    with pytest.raises(NotComposed, match="nan"):
        broken.choose("a", Plan((planned(),), "", Dynamic(2.0, 0.95, True)), at(7))


def test_logits_are_kept_as_they_were() -> None:
    batch = torch.zeros(4, VOCAB, dtype=torch.bfloat16)
    made = Composer()
    for n in range(2):
        made.add(f"a{n}", Companion("a", n))
        made.record_logits(f"a{n}", at(0), batch[n])
    batch += torch.arange(VOCAB)
    plan = Plan((planned(1, 9.0),), "", Dynamic(2.0, 0.95, True))
    assert made.choose("a", plan, at(0)).divergences == (0.0,)


def test_nothing_is_kept_of_those_who_went() -> None:
    made = composer(3)
    made.remove(["a0", "a1", "a2", "never came"])
    assert not made.companions
    assert not made._logits


def test_a_nucleus_has_a_token_however_small_its_mass() -> None:
    """1e-46 is above 0, and 0 in float32."""
    logprobs = torch.log_softmax(torch.tensor([[0.1, 2.0, -1.0], [5.0, 0.0, 0.0]]), dim=-1)
    found = nucleus(logprobs, 1e-46)
    assert found.tolist() == [[False, True, False], [True, False, False]]
    dynamic = Dynamic(start=2.0, top_p=5e-324, mean=True)
    assert bool(torch.isfinite(divergences(logprobs[0], logprobs[1:], dynamic)).all())
