"""The bank's rows, driven at random against a model of what they should hold."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from steersman.steering.plan import VectorUnavailable
from steersman.steering.plan.plan import BankKey
from steersman.steering.worker.bank import RowAllocator

CAPACITY = 5
KEYS = [BankKey("sha256:" + letter, "resid_post", 0, 0) for letter in "abcdefgh"]
key_sets = st.frozensets(st.sampled_from(KEYS), min_size=1, max_size=CAPACITY)


class Bank(RuleBasedStateMachine):
    """`content` is what was written where; the rows of a lease must hold it until it ends."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.content: dict[int, BankKey] = {}
        self.poisoned: BankKey | None = None
        self.held: dict[int, dict[BankKey, int]] = {}
        self.there: set[BankKey] = set()
        """What was placed, and not evicted since."""
        self.clock = 0
        self.bank = RowAllocator(CAPACITY)

    def fill(self, row: int, key: BankKey) -> None:
        assert all(row not in rows.values() for rows in self.held.values())
        if key == self.poisoned:
            raise VectorUnavailable("poisoned")
        self.content[row] = key

    def leased(self) -> set[BankKey]:
        return {key for rows in self.held.values() for key in rows}

    @rule(keys=key_sets)
    def place(self, keys: frozenset[BankKey]) -> None:
        there = self.there | self.leased()
        assert self.bank.has_room(keys) == (len(there | keys) <= CAPACITY)
        if self.bank.has_room(keys):
            self.bank.place(sorted(keys), self.fill)
            self.there |= keys

    @rule(keys=key_sets, data=st.data())
    def place_what_cannot_be_filled(self, keys: frozenset[BankKey], data: st.DataObject) -> None:
        missing = sorted(keys - self.there - self.leased())
        if not missing or not self.bank.has_room(keys):
            return
        self.poisoned = data.draw(st.sampled_from(missing))
        with pytest.raises(VectorUnavailable, match="poisoned"):
            self.bank.place(data.draw(st.permutations(sorted(keys))), self.fill)
        self.poisoned = None

    @rule(keys=key_sets)
    def evict(self, keys: frozenset[BankKey]) -> None:
        self.bank.evict(keys)
        self.there -= keys

    @rule(target=leases, keys=key_sets)
    def lease(self, keys: frozenset[BankKey]) -> int:
        self.clock += 1
        if keys <= self.there | self.leased():
            self.held[self.clock] = self.bank.lease(keys)
        else:
            before = self.bank.used
            with pytest.raises(VectorUnavailable, match="not there"):
                self.bank.lease(keys)
            assert self.bank.used == before
        return self.clock

    @rule(lease=consumes(leases))
    def release(self, lease: int) -> None:
        self.bank.release(self.held.pop(lease, {}))

    @invariant()
    def leased_rows_hold_what_was_leased(self) -> None:
        for rows in self.held.values():
            for key, row in rows.items():
                assert 1 <= row <= CAPACITY
                assert self.content[row] == key
        self.bank.check()
        assert self.bank.used == len(self.leased())

    @invariant()
    def what_is_resident_is_there(self) -> None:
        assert {*self.bank.resident_keys()} == self.there | self.leased()
        assert {key for key in KEYS if key in self.bank} == self.there
        assert self.bank.resident <= CAPACITY


TestBank = Bank.TestCase


def test_check_sees_books_that_do_not_balance() -> None:
    bank = RowAllocator(3)
    bank.place(KEYS[:2], lambda row, key: None)
    assert bank.resident_vectors() == 2
    bank._free.append(2)
    with pytest.raises(RuntimeError, match="do not add up"):
        bank.check()
