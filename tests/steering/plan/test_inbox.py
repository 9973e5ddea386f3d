"""Receipts: notes on the wire, and the inbox that collects them."""

import json
import threading

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from steersman.steering.plan import Choice, ReceiptInbox, Refusal, WorkerNote
from steersman.steering.plan.receipt import GateCount, Pace
from steersman.steering.plan.wire.readouts import ReadChunk

counts = st.lists(st.integers(0, 2**31), max_size=4).map(tuple)
seconds = st.lists(st.floats(0, 10), max_size=3).map(tuple)
numbers = st.lists(st.floats(0, 10), max_size=3).map(tuple)
choices = st.lists(st.builds(Choice, numbers, numbers), max_size=3).map(tuple)
small = st.integers(0, 2**31)
values = st.none() | st.floats(-9, 9)
gates = st.builds(
    GateCount, st.integers(0, 99), st.integers(0, 99), st.none() | st.booleans(), values
)
notes = st.builds(
    WorkerNote,
    st.text(max_size=20),
    counts,
    st.integers(-1, 99),
    seconds,
    choices,
    st.builds(Pace, small, small, small),
    small,
    st.lists(st.tuples(small, small), max_size=3).map(tuple),
    st.lists(st.builds(ReadChunk, small, small, st.binary(max_size=20)), max_size=3).map(tuple),
    gates=st.lists(gates, max_size=3).map(tuple),
)


@given(notes)
def test_a_note_survives_the_wire(note: WorkerNote) -> None:
    """In vLLM's encoding, which keeps bytes as they are."""
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(note.to_wire()))
    assert WorkerNote.from_wire(sent) == note


def test_the_latest_note_wins_and_loads_add_up() -> None:
    inbox = ReceiptInbox()
    inbox.open("r")
    inbox.deliver("a", WorkerNote("r", (1,), 5, (0.1,)))
    inbox.deliver("a", WorkerNote("r", (2,), -1, ()))
    inbox.deliver("a", WorkerNote("r", (3,), 7, (0.2, 0.3)))
    inbox.deliver("a", WorkerNote("r", (4,), -1, ()))
    assert inbox.read("r") == [WorkerNote("r", (4,), 7, (0.1, 0.2, 0.3))]


def test_choices_of_later_notes_follow_those_of_earlier_ones() -> None:
    inbox = ReceiptInbox()
    inbox.open("r")
    one, two, three = (Choice((float(n),), (0.5,)) for n in range(3))
    inbox.deliver("a", WorkerNote("r", (1,), -1, (), (one,)))
    inbox.deliver("a", WorkerNote("r", (2,), -1, ()))
    inbox.deliver("a", WorkerNote("r", (3,), -1, (), (two, three)))
    assert inbox.read("r")[0].choices == (one, two, three)


def test_each_sequence_of_a_request_has_its_own_count() -> None:
    inbox = ReceiptInbox()
    inbox.open("r")
    inbox.deliver("a", WorkerNote("r", (1,), -1, ()))
    inbox.deliver("b", WorkerNote("r", (2,), -1, ()))
    assert sorted(note.steered_tokens for note in inbox.read("r")) == [(1,), (2,)]


def test_notes_that_nobody_waits_for_leave_nothing_behind() -> None:
    inbox = ReceiptInbox()
    inbox.deliver("a", WorkerNote("never opened", (1,), -1, ()))
    inbox.open("r")
    inbox.deliver("a", WorkerNote("r", (1,), -1, ()))
    inbox.close("r")
    inbox.deliver("a", WorkerNote("r", (2,), -1, ()))
    inbox.close("r")
    assert len(inbox) == 0
    assert inbox.read("r") == []


def test_many_threads_share_the_desk() -> None:
    inbox = ReceiptInbox()
    seen: list[bool] = []

    def request(n: int) -> None:
        for turn in range(200):
            name = f"{n}-{turn}"
            inbox.open(name)
            inbox.deliver("s", WorkerNote(name, (turn,), -1, ()))
            seen.append([note.steered_tokens for note in inbox.read(name)] == [(turn,)])
            inbox.close(name)

    threads = [threading.Thread(target=request, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 1600
    assert all(seen)
    assert len(inbox) == 0


def test_a_refusal_is_kept_for_an_open_receipt_only_and_goes_with_it() -> None:
    inbox = ReceiptInbox()
    refusal = Refusal("r", "bank_full", "later")
    inbox.refuse(refusal)
    assert inbox.refusal("r") is None
    inbox.open("r")
    inbox.refuse(Refusal(**json.loads(json.dumps(refusal.to_wire()))))
    assert inbox.refusal("r") == refusal
    assert inbox.read("r") == []
    inbox.close("r")
    assert inbox.refusal("r") is None
