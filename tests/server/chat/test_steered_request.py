"""One request from its field to its receipt: what it says, what it holds, and that this is given
back once."""

import asyncio
import gc
import threading
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from steersman.server.auth.permissions import OPEN
from steersman.server.chat.steered_request import SteeredRequest, resolved
from steersman.server.chat.trace import Answers
from steersman.server.errors import LibrarySlow
from steersman.server.library.in_time import BUSY
from steersman.server.metrics import Outcome
from steersman.server.state import Steersman
from steersman.steering.plan import RECEIPTS, BankKey, Choice, PlanInvalid, WorkerNote
from steersman.steering.plan.receipt import Pace
from tests.support.server.make import steersman

DYNAMIC = {"vectors": ["plain", "other"], "dynamic": {"max": 3.0}}


@pytest.fixture
def app(tmp_path: Path) -> Steersman:
    return steersman(tmp_path)


def steered(app: Steersman, field: Any, answers: Answers | None = None) -> SteeredRequest:
    context = app.steering_for(OPEN)
    uses = [{"id": use} if isinstance(use, str) else use for use in field["vectors"]]
    return SteeredRequest(
        context, resolved(context, {**field, "vectors": uses}), answers or Answers()
    )


def streams() -> float | None:
    return REGISTRY.get_sample_value("steering_companion_streams")


def deliver(
    of: SteeredRequest,
    name: str,
    steered: tuple[int, ...],
    *choices: Choice,
    pace: Pace = Pace(),  # noqa: B008
) -> None:
    RECEIPTS.deliver(name, WorkerNote(of.plan.receipt, steered, -1, (), choices, pace))


def test_a_static_receipt(app: Steersman) -> None:
    made = steered(app, {"vectors": ["plain"]})
    deliver(made, "x", (7,))
    assert made.trace is None
    receipt = made.receipt()
    assert receipt["dynamic"] is None
    (said,) = receipt["vectors"]
    assert set(said) == {
        "id", "digest", "site", "layers", "coefficient", "positions", "relative_dose",
        "total_dose", "outside_safe_range", "base_model_matches", "steered_tokens",
    }  # fmt: skip
    made.close(Outcome.COMPLETED)


def test_a_receipt_repeats_the_schedule(app: Steersman) -> None:
    uses = [
        {"id": "plain", "schedule": "diminishing", "over": 2},
        {"id": "steps", "schedule": [1, 2], "after": "hold"},
    ]
    made = steered(app, {"vectors": uses})
    keys = ("coefficient", "schedule", "over", "steps", "after")
    said = [{k: v[k] for k in keys if k in v} for v in made.receipt()["vectors"]]
    assert said == [
        {"coefficient": 0.5, "schedule": "diminishing", "over": 2},
        {"coefficient": 2.0, "schedule": [1.0, 2.0], "steps": 3, "after": "hold"},
    ]
    made.close(Outcome.COMPLETED)


def test_a_dynamic_receipt(app: Steersman) -> None:
    made = steered(app, DYNAMIC)
    deliver(made, "x", (1, 1), Choice((3.0, 0.5), (4.0, 0.5)))
    assert made.receipt()["steps_per_token"] is None
    deliver(made, "x", (2, 2), Choice((0.25, 0.0), (0.25, 0.0)), pace=Pace(2, 1, 0))
    receipt = made.receipt()
    assert receipt["steps_per_token"] == 2
    assert [v["coefficient"] for v in receipt["vectors"]] == [3.0, 3.0]
    assert receipt["dynamic"] == {
        "plain": {
            "coefficients": [3.0, 0.25], "divergences": [4.0, 0.25], "mean_coefficient": 1.625,
        },
        "other": {
            "coefficients": [0.5, 0.0], "divergences": [0.5, 0.0], "mean_coefficient": 0.25,
        },
    }  # fmt: skip
    before = drafts()
    made.close(Outcome.COMPLETED)
    assert drafts() == (before[0] + 1, before[1])


def drafts() -> tuple[float, ...]:
    names = ("steering_draft_total", "steering_draft_kept_total")
    return tuple(REGISTRY.get_sample_value(name) or 0.0 for name in names)


def test_several_answers(app: Steersman) -> None:
    made = steered(app, {"vectors": ["plain"], "dynamic": {}}, Answers(n=2))
    for n in (1, 0):
        deliver(made, f"{n}_chatcmpl-x-00000000", (1,), Choice((float(n),), (0.0,)))
    receipt = made.receipt()
    assert [one["plain"]["coefficients"] for one in receipt["dynamic"]] == [[0.0], [1.0]]
    assert receipt["vectors"][0]["steered_tokens"] == 2
    made.close(Outcome.COMPLETED)


def test_companions_in_flight(app: Steersman) -> None:
    static = steered(app, {"vectors": ["plain", "other"]}, Answers(n=5))
    assert streams() == 0
    one = steered(app, DYNAMIC)
    assert streams() == 3
    several = steered(app, {"vectors": ["plain"], "dynamic": {}}, Answers(n=2, prompts=3))
    assert streams() == 3 + 12
    one.close(Outcome.COMPLETED)
    one.close(Outcome.FAILED)
    assert streams() == 12
    static.close(Outcome.COMPLETED)
    several.close(Outcome.ABORTED)
    assert streams() == 0


def test_a_session_that_nobody_closes_gives_its_companions_back(app: Steersman) -> None:
    made = steered(app, DYNAMIC)
    receipt = made.plan.receipt
    assert streams() == 3
    del made
    gc.collect()
    assert streams() == 0
    assert not RECEIPTS.is_open(receipt)
    assert not app.in_flight.rows


def test_a_refused_request_holds_nothing(app: Steersman) -> None:
    with pytest.raises(PlanInvalid):
        steered(app, {"vectors": ["plain"] * 9, "dynamic": {}})
    assert (streams(), len(app.in_flight.rows)) == (0, 0)


def test_collected_in_any_thread_it_is_counted_out_on_the_loop(app: Steersman) -> None:
    """A collection may happen in the middle of anything, with any lock held."""
    threads: set[int] = set()
    real = app.in_flight.leave

    def leave(rows: frozenset[BankKey], companions: int) -> None:
        threads.add(threading.get_ident())
        real(rows, companions)

    app.in_flight.leave = leave  # type: ignore[method-assign]

    async def main() -> None:
        made = [steered(app, DYNAMIC) for _ in range(40)]
        receipts = [one.plan.receipt for one in made]
        assert streams() == 120
        pool = [threading.Thread(target=collect, args=(made[n::4],)) for n in range(4)]
        del made[:]
        for thread in pool:
            thread.start()
        for thread in pool:
            thread.join()
        gc.collect()
        # Nothing has changed behind the loop's back.
        assert streams() == 120
        await asyncio.sleep(0)
        assert streams() == 0
        assert not app.in_flight.rows
        assert not any(RECEIPTS.is_open(receipt) for receipt in receipts)

    def collect(ours: list[SteeredRequest]) -> None:
        while ours:
            del ours[0]

    asyncio.run(main())
    assert threads == {threading.get_ident()}


def test_a_session_that_outlives_its_loop_harms_nobody(app: Steersman) -> None:
    async def main() -> SteeredRequest:
        return steered(app, DYNAMIC)

    made = asyncio.run(main())
    del made
    gc.collect()


def test_a_library_that_hangs_is_a_503_and_the_loop_goes_on(
    app: Steersman, monkeypatch: pytest.MonkeyPatch
) -> None:
    thawed = threading.Event()
    context = app.steering_for(OPEN)._replace(load_timeout=0.2)
    monkeypatch.setattr(context.library, "resolve", lambda _: thawed.wait(30))
    field = {"vectors": [{"id": "plain"}]}

    async def ask() -> int:
        asked = asyncio.ensure_future(SteeredRequest.begin(context, field, Answers()))
        turns = 0
        while not asked.done():
            await asyncio.sleep(0.01)
            turns += 1
        with pytest.raises(LibrarySlow, match=r"in 0\.2 s"):
            await asked
        return turns

    try:
        assert asyncio.run(ask()) > 1
    finally:
        thawed.set()


def test_who_waits_for_a_disk_holds_up_nobody_whose_vectors_are_known(
    app: Steersman, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More wait than threads look things up at once."""
    thawed = threading.Event()
    context = app.steering_for(OPEN)
    known = context.library.resolve

    def resolve(vector_id: str) -> Any:
        if vector_id == "cold" and not thawed.wait(30):
            raise AssertionError("nobody thawed the disk")
        return known("plain")

    monkeypatch.setattr(context.library, "resolve", resolve)

    async def begin(name: str) -> None:
        made = await SteeredRequest.begin(context, {"vectors": [{"id": name}]}, Answers())
        made.close(Outcome.COMPLETED)

    async def main() -> None:
        waiting = [asyncio.ensure_future(begin("cold")) for _ in range(3 * BUSY)]
        await asyncio.sleep(0)
        for _ in range(20):
            await asyncio.wait_for(begin("plain"), 10)
        assert not any(one.done() for one in waiting)
        thawed.set()
        await asyncio.gather(*waiting)

    try:
        asyncio.run(main())
    finally:
        thawed.set()
