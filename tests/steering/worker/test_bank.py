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
        self.poisoned: frozenset[BankKey] = frozenset()
        self.held: dict[int, dict[BankKey, int]] = {}
        self.used_at: dict[BankKey, int] = {}
        self.clock = 0
        self.bank = RowAllocator(CAPACITY, self.fill)

    def fill(self, row: int, key: BankKey) -> None:
        assert all(row not in rows.values() for rows in self.held.values())
        if key in self.poisoned:
            raise VectorUnavailable("poisoned")
        self.content[row] = key

    def books(self) -> tuple[object, ...]:
        in_use = {key for rows in self.held.values() for key in rows}
        return self.bank.used, in_use

    @rule(target=leases, keys=key_sets)
    def lease(self, keys: frozenset[BankKey]) -> int:
        in_use = {key for rows in self.held.values() for key in rows}
        resident = set(KEYS) - set(self.bank.missing(KEYS))
        fits = len(in_use | keys) <= CAPACITY
        before = self.books()
        try:
            rows = self.bank.lease(keys)
        except VectorUnavailable:
            assert not fits
            assert self.books() == before
            assert set(KEYS) - set(self.bank.missing(KEYS)) == resident
            return -1
        assert fits
        self.clock += 1
        self.held[self.clock] = rows
        self.expect_least_recent_gone(resident, in_use | keys)
        return self.clock

    def expect_least_recent_gone(self, resident: set[BankKey], in_use: set[BankKey]) -> None:
        evicted = resident & set(self.bank.missing(KEYS))
        kept = resident - evicted - in_use
        for gone in evicted:
            assert all(self.used_at[gone] <= self.used_at[key] for key in kept)

    @rule(keys=key_sets, data=st.data())
    def lease_that_cannot_be_filled(self, keys: frozenset[BankKey], data: st.DataObject) -> None:
        missing = self.bank.missing(keys)
        in_use = {key for rows in self.held.values() for key in rows}
        if not missing or len(in_use | keys) > CAPACITY:
            return
        before = self.books()
        self.poisoned = frozenset([data.draw(st.sampled_from(missing))])
        with pytest.raises(VectorUnavailable, match="poisoned"):
            self.bank.lease(keys)
        self.poisoned = frozenset()
        assert self.books() == before
        self.clock += 1
        for key in keys:
            self.used_at[key] = self.clock

    @rule(lease=consumes(leases))
    def release(self, lease: int) -> None:
        rows = self.held.pop(lease, None)
        if rows is not None:
            self.bank.release(rows)
            self.clock += 1
            for key in rows:
                self.used_at[key] = self.clock

    @invariant()
    def leased_rows_hold_what_was_leased(self) -> None:
        for rows in self.held.values():
            for key, row in rows.items():
                assert 1 <= row <= CAPACITY
                assert self.content[row] == key
        self.bank.check()
        assert self.bank.used == len({key for rows in self.held.values() for key in rows})

    @invariant()
    def what_is_resident_is_there(self) -> None:
        assert self.bank.resident <= CAPACITY
        resident = set(KEYS) - set(self.bank.missing(KEYS))
        assert len(resident) == self.bank.resident
        assert resident <= set(self.content.values())


TestBank = Bank.TestCase


def test_least_recently_released_goes_first() -> None:
    bank = RowAllocator(2, lambda row, key: None)
    a, b, c = ([key] for key in KEYS[:3])
    bank.lease(a)
    bank.lease(b)
    bank.release(b)
    bank.release(a)
    bank.lease(b)
    bank.release(b)
    bank.lease(c)
    assert bank.missing(KEYS[:3]) == a
    bank.release(c)
    assert bank.resident_vectors() == 2


def test_check_sees_books_that_do_not_balance() -> None:
    bank = RowAllocator(3, lambda row, key: None)
    bank.lease(KEYS[:2])
    bank._free.append(2)
    with pytest.raises(RuntimeError, match="do not add up"):
        bank.check()
