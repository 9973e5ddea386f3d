"""What the benchmark of distinct steerings sends, and what it makes of the rates."""

import pytest

from bench.distinct import distinct, parse_arguments, summary
from bench.servers import Server

SERVER = Server("none", "http://127.0.0.1:1", 0)


@pytest.mark.parametrize("count", [1, 2, 8, 32])
def test_a_batch_has_as_many_different_steerings_as_its_count(count: int) -> None:
    config = distinct(SERVER, count, layers=30, seed=0)
    sent = [str(config.steering(n)) for n in range(32)]
    assert len(set(sent)) == count
    assert all(sent.count(one) == 32 // count for one in sent)
    terms = [
        (v["id"], v["coefficient"]) for n in range(count) for v in config.steering(n)["vectors"]
    ]
    assert len(set(terms)) == 2 * count


def test_with_count_0_nobody_is_steered() -> None:
    config = distinct(SERVER, 0, layers=30, seed=0)
    assert [config.steering(n) for n in range(4)] == [None] * 4


def test_a_larger_count_has_the_ways_of_a_smaller_one() -> None:
    few, many = (distinct(SERVER, n, layers=30, seed=3) for n in (2, 8))
    assert [few.steering(n) for n in range(2)] == [many.steering(n) for n in range(2)]


def test_summary() -> None:
    rates = {"0": [100.0, 200.0, 110.0], "1": [95.0, 190.0, 104.5], "8": [90.0, 100.0, 99.0]}
    found = summary(rates)
    assert found["counts"]["0"]["ratio"] == 1
    assert found["counts"]["1"]["tokens_per_second"] == 104.5
    assert found["counts"]["1"]["ratio"] == 0.95
    assert found["counts"]["8"]["ratio_range"] == [0.5, 0.9]
    assert found["slowest_to_fastest"] == pytest.approx(99 / 104.5, abs=1e-4)
    assert found["flat"] is False
    assert summary({"0": [1.0], "1": [2.0], "2": [1.95]})["flat"] is True


@pytest.mark.parametrize("given", [["1", "2"], ["0"], ["0", "64"]])
def test_counts_that_make_no_sense_are_refused(given: list[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--counts", *given])
