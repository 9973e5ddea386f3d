"""What the benchmark of distinct steerings runs, and what it makes of the times."""

import pytest

from bench.engine.distinct import LAYERS_EACH, VECTORS_EACH, parse_arguments, plan, summary, ways

DIGESTS = [f"sha256:{n:064x}" for n in range(16)]


@pytest.mark.parametrize("count", [0, 1, 2, 8, 32])
def test_ways_differ_in_their_vectors_coefficients_and_layers(count: int) -> None:
    drawn = ways(count, layers=30, seed=0)
    assert len(set(drawn)) == count
    assert len({use.coefficient for way in drawn for use in way}) == VECTORS_EACH * count
    assert {len(use.layers) for way in drawn for use in way} <= {LAYERS_EACH}


def test_a_larger_count_has_the_ways_of_a_smaller_one() -> None:
    assert ways(8, layers=30, seed=3)[:2] == ways(2, layers=30, seed=3)


def test_a_way_is_a_plan_of_its_vectors() -> None:
    (way,) = ways(1, layers=30, seed=0)
    made = plan(way, DIGESTS, "r")
    assert [(v.digest, v.coefficient) for v in made.vectors] == [
        (DIGESTS[use.vector], use.coefficient) for use in way
    ]
    assert made.vectors[0].terms == tuple(("resid_post", layer) for layer in way[0].layers)


def test_summary() -> None:
    steps = {
        "0": [[0.1, 0.1, 9.0], [0.2, 0.2, 0.2], [0.1, 0.1, 0.1]],
        "1": [[0.1, 0.1, 0.1], [0.25, 0.25, 0.25], [0.1, 0.1, 0.1]],
        "8": [[0.125, 0.125, 0.125], [0.25, 0.1, 0.25], [0.125, 0.125, 0.125]],
    }
    found = summary(steps, size=10)
    assert found["counts"]["0"]["tokens_per_second"] == 100
    assert found["counts"]["0"]["ratio"] == 1
    assert found["counts"]["1"]["ratio_range"] == [0.8, 1]
    assert found["counts"]["8"]["ratio"] == 0.8
    assert found["slowest_to_fastest"] == 0.8
    assert found["flat"] is False
    assert summary({"0": [[1.0]], "1": [[2.0]], "2": [[1.95]]}, size=100)["flat"] is True


@pytest.mark.parametrize("given", [["1", "2"], ["0"], ["0", "64"]])
def test_counts_that_make_no_sense_are_refused(given: list[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--counts", *given])
