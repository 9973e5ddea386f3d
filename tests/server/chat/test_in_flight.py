"""What requests in flight need, as the plans of real requests have it."""

from steersman.server.chat.in_flight import InFlight
from steersman.steering.plan import Plan, PlannedVector
from steersman.vectors.tensors import HookPoint

ONE, OTHER = (f"sha256:{digit * 64}" for digit in "12")


def plan(*digests: str) -> Plan:
    terms = (HookPoint("resid_post", 3), HookPoint("resid_post", 4))
    return Plan(tuple(PlannedVector(digest, 1.0, terms, "all") for digest in digests))


def test_the_vectors_in_flight_are_those_of_the_plans() -> None:
    flight, first, second = InFlight(), plan(ONE), plan(ONE, OTHER)
    assert flight.digests() == frozenset()
    flight.enter(first.bank_keys, 0)
    flight.enter(second.bank_keys, 0)
    assert flight.digests() == {ONE, OTHER}
    flight.leave(second.bank_keys, 0)
    assert flight.digests() == {ONE}
    flight.leave(first.bank_keys, 0)
    assert flight.digests() == frozenset()
