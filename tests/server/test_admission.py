import pytest

from server.admission import Admission, BankFull
from steering.plan import Plan, PlannedVector


def plan(digest: str, layers: range) -> Plan:
    terms = tuple(("resid_post", layer) for layer in layers)
    return Plan((PlannedVector("sha256:" + digest * 64, 1.0, terms, "all"),))


def test_requests_under_one_vector_share_its_rows() -> None:
    admission = Admission(10)
    for _ in range(1000):
        admission.enter(plan("a", range(10)))
    assert admission.rows_in_use == 10
    for _ in range(1000):
        admission.leave(plan("a", range(10)))
    assert admission.rows_in_use == 0


def test_what_does_not_fit_is_refused_and_leaves_no_trace() -> None:
    admission = Admission(10)
    admission.enter(plan("a", range(6)))
    with pytest.raises(BankFull) as caught:
        admission.enter(plan("b", range(5)))
    assert caught.value.retry_after >= 1
    assert admission.rows_in_use == 6
    admission.enter(plan("b", range(4)))
    admission.leave(plan("a", range(6)))
    admission.enter(plan("c", range(6)))
    assert admission.rows_in_use == 10
