"""What the command line says of an extraction: tokens, warnings, why nothing is recommended."""

import json
from typing import Any

import pytest

from steersman.client.cli.vectors.quality import quality_table
from steersman.client.cli.watch import show_texts


def vector(**quality: Any) -> dict[str, Any]:
    return {
        "id": "x",
        "norms": {"resid_post.3": 2.0, "resid_post.4": 1.0},
        "method_settings": {"quality": {"separation": {"resid_post.3": 0.395}, **quality}},
    }


def test_where_nothing_is_recommended_it_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    null = {"layer": 3, "separation": {"mean": 0.51, "sd": 0.12}}
    assert quality_table(vector(recommended=None, reason="it may be chance", null=null))
    said = capsys.readouterr()
    assert "not recommended: it may be chance" in said.out
    assert "<- recommended" not in said.out
    assert "0.51 ± 0.12" in said.err


def test_a_recommendation_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    advice = {"layer": 3, "coefficient": 1.5, "range": [1.0, 2.0], "basis": "middle layers"}
    assert quality_table(vector(recommended=advice))
    said = capsys.readouterr().out
    assert "recommended: layer 3, coefficient 1.5 (1 to 2)" in said
    assert "not recommended" not in said


def test_vectors_of_older_servers_are_shown_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert quality_table(vector())
    assert "recommended" not in capsys.readouterr().out


def condition(**quality: Any) -> dict[str, Any]:
    found = vector(f1={"resid_post.4": 0.9, "resid_post.10": 1.0}, always=0.67, **quality)
    gate = {"layer": 10, "measure": "cast", "above": 0.125, "over": "prompt_mean"}
    found["method_settings"]["gate"] = gate
    return found


def test_of_a_condition_the_gate_is_said_as_a_request_has_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert quality_table(
        condition(
            held_out_f1={"resid_post.4": 0.8, "resid_post.10": 0.95},
            null={"shuffles": 16, "held_out_f1": {"mean": 0.61, "sd": 0.05}},
            recommended={"layer": 10},
        )
    )
    said = capsys.readouterr()
    gate = said.out.partition("gate: ")[2]
    assert json.loads(gate) == {
        "id": "x", "layer": 10, "measure": "cast", "above": 0.125, "over": "prompt_mean",
    }  # fmt: skip
    assert "0.61 ± 0.05" in said.err
    assert "not recommended" not in said.out


def test_of_trials_the_one_that_was_taken_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    trials = [
        {"position": -2, "layer": 8, "separation": 3.0, "bypass": -1.5, "kl": 0.02},
        {"position": -1, "layer": 14, "separation": 2.5, "bypass": -4.25, "kl": 0.05},
    ]
    found = vector(
        trials=trials, chosen=trials[1], baseline={"positive": 2.5, "negative": -3.0},
        behaviour=[{"id": 40, "text": "I"}], recommended=None, reason="by chance",
        null={"shuffles": 8, "bypass": {"mean": 2.25, "sd": 0.5}, "kl": {"mean": 0, "sd": 0}},
    )  # fmt: skip
    assert quality_table({**found, "norms": {}})
    said = capsys.readouterr()
    assert "-4.25" in said.out
    assert "not recommended: by chance" in said.out
    assert "'I': 2.50 unsteered, 2.25 ± 0.50" in said.err


def test_a_condition_of_few_prompts_says_why_it_is_not_recommended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert quality_table(condition(recommended=None, reason="too few"))
    said = capsys.readouterr().out
    assert "not recommended: too few" in said
    assert '"layer": 10' in said


def test_tokens_and_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    sample = {"row": 2, "label": "positive", "token": ".", "before": "I love it", "tokens": 1}
    show_texts({"samples": [sample], "warnings": [{"code": "same_token", "message": "all alike"}]})
    said = capsys.readouterr().err
    assert "row 2 (positive): '.' after 'I love it'" in said
    assert "warning: all alike" in said
    show_texts({})
