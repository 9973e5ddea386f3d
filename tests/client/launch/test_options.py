"""The options are the settings: one for each, in both spellings."""

import json
from typing import Any

import pytest

from steersman.client.launch.options import (
    explicit_settings,
    option_of_setting,
    own_parser,
    settings_of,
)
from steersman.client.launch.run import Run
from steersman.client.launch.vllm_arguments import usage
from steersman.steering.logs import CONFIG
from steersman.steering.plan import Settings


def test_both_spellings_give_the_same_settings() -> None:
    parser = own_parser()
    for name in Settings.model_fields:
        default = getattr(Settings(), name)
        option = option_of_setting()[name]
        value: Any
        if isinstance(default, bool):
            value = not default
            words = [option if value else option.replace("--", "--no-", 1)]
        elif name == "sites":
            value = "attn_out,mlp_out"
            words = [option, value]
        elif name in ("operations", "default_preset"):
            value = {"operations": "add,project", "default_preset": "sunny"}[name]
            words = [option, value]
        elif isinstance(default, int | float) or name.endswith("_dose"):
            value = 3 if isinstance(default, int) else (default or 5.0) / 2
            words = [option, str(value)]
        else:
            value = "/tmp/place"
            words = [option, value]
        by_flag = Settings.read({"steersman": settings_of(parser.parse_args(words))})
        by_key = Settings.read({"steersman": {name: value}})
        assert getattr(by_flag, name) == getattr(by_key, name) == value
        assert explicit_settings(words) == {name: value}


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("unrecognized arguments: --bonk-rows 3", "did you mean --bank-rows?"),
        ("unrecognized arguments: --max_vektors=3", "did you mean --max-vectors?"),
        ("unrecognized arguments: --quite-something-else", "--help=all"),
        ("argument --port: invalid int value: 'x'\n\nusage", "--port: invalid int value: 'x'; "),
    ],
)
def test_wrong_usage_is_a_sentence(message: str, said: str) -> None:
    line = usage(message, ["--bank-rows", "--max-vectors", "--port"])
    assert said in line
    assert "\n" not in line


def test_a_run_leaves_vllms_own_log_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for theirs, log_format, ours in (
        ([], "text", True), ([], "vllm", False), (["--log-config-file", "x"], "text", False),
        (["--logging-config.formatter=json"], "json", False),
    ):  # fmt: skip
        monkeypatch.setattr(os, "environ", {"PATH": "/bin"})
        run = Run(log_format=log_format, verbose=True, theirs=theirs)
        path = os.environ.get("VLLM_LOGGING_CONFIG_PATH")
        assert (path is not None) is ours
        if path is not None:
            with open(path) as file:
                assert json.load(file) == CONFIG
        run.remove()
        assert not run.folder.exists()
