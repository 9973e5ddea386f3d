"""The page of options is the options: made from the settings and the launcher's parser."""

import json
from dataclasses import fields
from typing import Any

import pytest

from steersman.client.launch.options import PAGE, page, table
from steersman.client.launch.run import Run
from steersman.client.launch.serve import (
    _explicit,
    _own_parser,
    _settings,
    _usage,
    option_of_setting,
)
from steersman.steering.logs import CONFIG
from steersman.steering.plan import Settings


def test_the_page_is_up_to_date() -> None:
    text = PAGE.read_text()
    assert text == page(text), "python -m steersman.client.launch.options writes it anew"


def test_every_setting_has_an_option_and_a_row() -> None:
    options = option_of_setting()
    rows = table().splitlines()[2:]
    assert [row.split("|")[2].strip(" `") for row in rows] == [f.name for f in fields(Settings)]
    assert options.keys() == {f.name for f in fields(Settings)}
    for row in rows:
        assert len(row.replace("\\|", "").split("|")) == 6


def test_both_spellings_give_the_same_settings() -> None:
    parser = _own_parser()
    for setting in fields(Settings):
        default = getattr(Settings(), setting.name)
        option = option_of_setting()[setting.name]
        value: Any
        if isinstance(default, bool):
            value = not default
            words = [option if value else option.replace("--", "--no-", 1)]
        elif isinstance(default, int | float) or setting.name.endswith("_dose"):
            value = 3 if isinstance(default, int) else (default or 5.0) / 2
            words = [option, str(value)]
        else:
            value = "/tmp/place"
            words = [option, value]
        by_flag = Settings.read({"steersman": _settings(parser.parse_args(words))})
        by_key = Settings.read({"steersman": {setting.name: value}})
        assert getattr(by_flag, setting.name) == getattr(by_key, setting.name) == value
        assert _explicit(words) == {setting.name: value}


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
    line = _usage(message, ["--bank-rows", "--max-vectors", "--port"])
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
