"""The plugin where nobody has switched it on, and front ends that it does not go with."""

import logging
import multiprocessing
import sys

import pytest

from steersman.steering.vllm import plugin
from steersman.steering.vllm.unsupported import check_frontend


def registered(caplog: pytest.LogCaptureFixture) -> list[str]:
    logging.getLogger("vllm").propagate = True
    try:
        with caplog.at_level(logging.WARNING, logger="vllm.steersman"):
            plugin.register()
    finally:
        logging.getLogger("vllm").propagate = False
    # Where another test has given vLLM's logger the same handler, each record is there twice.
    records = {id(record): record for record in caplog.records}.values()
    return [record.getMessage() for record in records if record.name == "vllm.steersman"]


def test_one_line_says_how_to_switch_it_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    (said,) = registered(caplog)
    assert "VLLM_PLUGINS=steersman" in said
    assert "`steering` field" in said


def test_a_child_process_says_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    monkeypatch.setattr(multiprocessing, "parent_process", object)
    assert registered(caplog) == []


@pytest.mark.parametrize("named", ["", "other"])
def test_who_chose_other_plugins_knows(
    named: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", named)
    assert registered(caplog) == []


def test_a_grpc_server_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_frontend()
    monkeypatch.setattr(sys, "argv", ["vllm", "serve", "m", "--grpc"])
    with pytest.raises(RuntimeError, match="--grpc"):
        check_frontend()
    monkeypatch.setattr(sys, "argv", ["x"])
    monkeypatch.setitem(sys.modules, "vllm.entrypoints.launchers.grpc_server", sys)
    with pytest.raises(RuntimeError, match="--grpc"):
        check_frontend()
