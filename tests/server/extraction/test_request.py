"""Texts of a request as rows: whose they are, and which are each other's counterparts."""

import json
import sys
from typing import Any

import pytest

from steersman.server.extraction.request import read_request
from steersman.server.extraction.samples import Sample, check_paired, json_lines, samples_of
from steersman.vectors.errors import VectorInvalid


def samples(*lines: Any, **inline: Any) -> list[Sample]:
    request = read_request(json.dumps({"method": "caa", "name": "x", **inline}))
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    found = json_lines("\n".join(texts).encode()) if lines else None
    return list(samples_of(request, found))


def lone(label: Any, text: str = "(A)") -> dict[str, Any]:
    return {"text": text, "label": label}


def test_brackets_without_end_are_one_bad_line() -> None:
    bad, good = samples("[" * 100_000, lone("positive"))
    assert (bad.number, bad.label, good.label) == (1, "", "positive")


@pytest.mark.parametrize("label", ["", 7, None, ["a"], "\ud800", "x" * 129])
def test_what_is_no_label(label: Any) -> None:
    (sample,) = samples(lone(label))
    assert sample.label == ""
    assert samples(lone("é" * 128))[0].label == "é" * 128


def test_a_style_inline_has_a_label_too() -> None:
    with pytest.raises(VectorInvalid, match="1 to 128"):
        samples(styles={"x" * 129: ["a", "b"]})


@pytest.mark.parametrize("c", [0, -1, 1e-7, 1e7, 10**1000, True, "1", None])
def test_a_probes_c_has_bounds(c: Any) -> None:
    request = {"method": "probe", "name": "x", "pairs": [["a", "b"]]}
    with pytest.raises(VectorInvalid) as caught:
        read_request(json.dumps({**request, "settings": {"c": c}}))
    assert caught.value.param == "settings.c"
    for fine in (1e-6, 1, 1e6):
        read_request(json.dumps({**request, "settings": {"c": fine}}))


def test_counterparts_however_they_are_given() -> None:
    pair = {"positive": "(A)", "negative": "(B)"}
    mixed = samples(lone("positive"), pair, lone("negative"), lone("negative"), lone("positive"))
    check_paired(mixed)
    assert [sample.pair for sample in mixed] == [
        ("text", 1), ("pair", 2), ("pair", 2), ("text", 1), ("text", 2), ("text", 2),
    ]  # fmt: skip
    listed = samples(pairs=[["(A)", "(B)"]], positive=["(A)"], negative=["(B)"])
    check_paired(listed)
    assert len({sample.pair for sample in listed}) == 2
    # A line that is no pair takes nobody along.
    check_paired(samples(pair, "nonsense", pair))


@pytest.mark.parametrize("lost", ["nonsense", lone("postive"), lone(7)])
def test_lines_of_one_text_need_to_be_on_a_side_each(lost: Any) -> None:
    lines = [lone("positive"), lone("negative"), lost]
    with pytest.raises(VectorInvalid, match="row 3 is neither") as caught:
        check_paired(samples(*lines, lone("positive"), lone("negative")))
    assert caught.value.code == "unpaired"


def test_sides_that_are_not_as_many() -> None:
    for found in (
        samples(positive=["(A)"] * 3, negative=["(B)"] * 2),
        samples(lone("positive"), lone("positive"), lone("negative")),
        # As many, but not each other's.
        samples(lone("positive"), pairs=None, positive=None) + samples(negative=["(B)"]),
    ):
        with pytest.raises(VectorInvalid, match="positive texts and") as caught:
            check_paired(found)
        assert caught.value.code == "unpaired"


@pytest.mark.parametrize("method", ["repe", "probe", "mean_difference", "caa", "style", "per_step"])
def test_without_scikit_learn_it_says_so_before_any_work(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """As beside a vLLM that was there, with `pip install --no-deps`."""
    monkeypatch.setitem(sys.modules, "sklearn", None)
    body = json.dumps({"method": method, "name": "x", "pairs": [["a b", "c d"]] * 4})
    if method not in ("repe", "probe"):
        assert read_request(body).method == method
        return
    with pytest.raises(VectorInvalid, match="pip install scikit-learn") as caught:
        read_request(body)
    assert (caught.value.code, caught.value.param) == ("package_missing", "method")
