"""Plans for tests, by hand and by hypothesis."""

from hypothesis import strategies as st

from steersman.steering.plan import Limits, Plan, PlannedVector, PositionRule, interval
from steersman.steering.plan.plan import as_float32
from steersman.steering.plan.positions import answer_rule
from steersman.vectors.tensors import HookPoint

LAYERS = 6
SITES = ("resid_post", "attn_out", "mlp_out")
STEPPED, STEPS = 7, 3
"""A vector, by its number, that has a tensor for each of so many steps."""


def digest(n: int) -> str:
    """A well-formed digest; another number is other content."""
    return f"sha256:{n:064x}"


def planned(
    n: int = 1,
    coefficient: float = 1.0,
    layers: tuple[int, ...] = (2,),
    positions: PositionRule = "generation",
    site: str = "resid_post",
) -> PlannedVector:
    terms = tuple(HookPoint(site, layer) for layer in sorted(layers))
    return PlannedVector(digest(n), as_float32(coefficient), terms, positions)


def plan_of(*vectors: PlannedVector, receipt: str = "") -> Plan:
    return Plan(vectors, receipt)


def added_by(vector: PlannedVector, token: int, prompt_tokens: int) -> tuple[int, float] | None:
    """Step (-1: there is one tensor for all) and coefficient of `vector` at a token, straight from
    the rules; None for none."""
    start, stop = interval(vector.positions, prompt_tokens)
    if not start <= token < stop:
        return None
    step, coefficient = token - start, vector.coefficient
    if vector.schedule:
        if step >= len(vector.schedule) and not vector.hold:
            return None
        coefficient = vector.schedule[min(step, len(vector.schedule) - 1)]
    if vector.steps > 1 and step >= vector.steps and not vector.hold:
        return None
    return (-1 if vector.steps == 1 else min(step, vector.steps - 1)), coefficient


def limits(**changes: object) -> Limits:
    values: dict[str, object] = {
        "num_layers": LAYERS,
        "bank_rows": 64,
        "max_terms": 8,
        "max_vectors": 32,
        "max_segments": 4,
        "max_coefficient": 10_000.0,
        "max_steps": 8,
        "max_schedule_total": 8192,
        "max_plan_terms": 16_384,
        "max_read_values": 65_536,
    }
    return Limits(**values | changes)  # type: ignore[arg-type]


def rules(prompt_tokens: int) -> st.SearchStrategy[PositionRule]:
    """Every rule that a prompt of so many tokens allows."""

    @st.composite
    def ranges(draw: st.DrawFn) -> tuple[int, int]:
        first = draw(st.integers(0, prompt_tokens - 1))
        last = draw(st.integers(first + 1, prompt_tokens + 6))
        start = draw(st.sampled_from([first, first - prompt_tokens]))
        if last < prompt_tokens:
            last = draw(st.sampled_from([last, last - prompt_tokens]))
        return start, last

    @st.composite
    def of_answer(draw: st.DrawFn) -> str:
        start = draw(st.none() | st.integers(0, 4))
        stop = draw(st.none() | st.integers((start or 0) + 1, 8))
        return answer_rule(start, stop)

    named = st.sampled_from(["generation", "after_prompt", "prompt", "all"])
    return st.one_of(named, ranges(), of_answer())


finite = st.floats(-100, 100, width=32)
terms = st.sets(
    st.tuples(st.sampled_from(SITES), st.integers(0, LAYERS - 1)), min_size=1, max_size=4
).map(lambda found: tuple(HookPoint(*place) for place in sorted(found)))


def planned_vectors(
    prompt_tokens: int, coefficients: st.SearchStrategy[float] = finite
) -> st.SearchStrategy[PlannedVector]:
    def of(digests: st.SearchStrategy[int], steps: int) -> st.SearchStrategy[PlannedVector]:
        return st.builds(
            PlannedVector,
            digests.map(digest),
            coefficients,
            terms,
            rules(prompt_tokens),
            st.lists(coefficients, max_size=4).map(tuple),
            st.just(steps),
            st.booleans(),
        )

    return st.one_of(of(st.integers(0, 3), 1), of(st.just(STEPPED), STEPS))


def plans(
    prompt_tokens: int, coefficients: st.SearchStrategy[float] = finite
) -> st.SearchStrategy[Plan]:
    vectors = st.lists(planned_vectors(prompt_tokens, coefficients), min_size=1, max_size=4)
    return st.builds(Plan, vectors.map(tuple), st.text(max_size=64))
