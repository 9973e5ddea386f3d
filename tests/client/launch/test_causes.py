"""The cause of a failed start, out of the tracebacks of its processes."""

import logging
from pathlib import Path

import pytest

from steersman.client.launch.causes import KILLED, cause
from steersman.steering.logs import JsonLines, Place, Quiet, TextLines

CORE = RuntimeError("Engine core initialization failed. See root cause above. Failed core proc(s)")


def noted(folder: Path, *errors: BaseException) -> str:
    """What the processes of a start note that log `errors`."""
    quiet = Quiet(Place(folder))
    for error in errors:
        try:
            raise error
        except BaseException as raised:  # noqa: BLE001
            record = logging.LogRecord(
                "vllm.v1.engine.core", logging.ERROR, "core.py", 1, "EngineCore failed to start.",
                None, (type(raised), raised, raised.__traceback__),
            )  # fmt: skip
            assert not quiet.filter(record)
    return (folder / "trace").read_text()


def test_a_cache_that_does_not_fit(tmp_path: Path) -> None:
    text = (
        "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when "
        "initializing the engine. See https://docs.vllm.ai for more details."
    )
    line = cause(noted(tmp_path, ValueError(text)), CORE)
    assert line.startswith("No available memory for the cache blocks; set --max-model-len lower")
    assert "--kv-cache-memory-bytes" in line
    assert "gpu_memory_utilization`" not in line


def test_the_first_that_says_something_counts(tmp_path: Path) -> None:
    refused = RuntimeError("Steersman cannot steer under micro-batches; drop --enable-dbo")
    vague = Exception("WorkerProc initialization failed. See stack trace for root cause.")
    assert cause(noted(tmp_path, vague, refused, KeyError("later")), CORE) == str(refused)


def test_a_worker_that_died_without_a_word(tmp_path: Path) -> None:
    vague = Exception("WorkerProc initialization failed. See stack trace for root cause.")
    assert cause(noted(tmp_path, vague, vague), CORE) == KILLED


def test_a_process_that_was_killed(tmp_path: Path) -> None:
    quiet = Quiet(Place(tmp_path))
    said = "Worker proc VllmWorker-0 died unexpectedly (exit code: -9)"
    assert not quiet.filter(logging.LogRecord("vllm.x", logging.ERROR, "", 1, said, None, None))
    assert cause((tmp_path / "trace").read_text(), CORE) == said


def test_without_any_traceback() -> None:
    assert cause("", CORE) == KILLED
    assert cause("", KeyError("block")) == "KeyError: 'block'"
    assert cause("", None) == "the engine did not start"
    error = OSError(28, "No space left on device", "/var/x")
    assert cause("", error).startswith("No space left on device /var/x; free some space")


def test_messages_of_several_lines_become_one() -> None:
    assert "\n" not in cause("", ValueError("one\n\n  two"))


def record(name: str, level: int, text: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord(name, level, "file.py", 1, text, args, None)


ACCESS = '%s - "%s %s HTTP/%s" %d'


@pytest.mark.parametrize(
    ("name", "level", "text", "starting", "later"),
    [
        ("vllm.entrypoints.launchers.launcher", logging.INFO, "Route: /v1", False, True),
        ("vllm.v1.engine.core", logging.INFO, "[shutdown] EngineCore: done", False, False),
        ("vllm.v1.engine.core", logging.WARNING, "[shutdown] killing", True, False),
        ("vllm.config", logging.WARNING, "Enforce eager set, disabling", False, True),
        ("vllm.config", logging.WARNING, "the model is deprecated", True, True),
        ("vllm.engine", logging.ERROR, "failed", False, True),
        ("vllm.steersman", logging.INFO, "Measuring", True, True),
        ("vllm.steersman", logging.ERROR, "broken", True, True),
        ("steersman.vectors.library.library", logging.WARNING, "skipping", True, True),
        ("uvicorn.error", logging.INFO, "Started server process", False, False),
        ("uvicorn.error", logging.ERROR, "Exception in ASGI application", True, True),
    ],
)
def test_what_a_quiet_log_keeps(
    tmp_path: Path, name: str, level: int, text: str, starting: bool, later: bool
) -> None:
    assert Quiet(Place(tmp_path)).filter(record(name, level, text)) is starting
    (tmp_path / "ready").touch()
    assert Quiet(Place(tmp_path)).filter(record(name, level, text)) is later


def test_probes_are_logged_when_they_fail(tmp_path: Path) -> None:
    quiet = Quiet(Place(tmp_path))
    for path, status, kept in (
        ("/ready", 200, False), ("/health?x=1", 200, False), ("/ready", 503, True),
        ("/v1/models", 200, True),
    ):  # fmt: skip
        access = record("uvicorn.access", logging.INFO, ACCESS, "::1", "GET", path, "1.1", status)
        assert quiet.filter(access) is kept


def test_both_formats_have_the_time() -> None:
    import json

    made = record("vllm.x", logging.INFO, "a %s", "line")
    text = TextLines().format(made)
    assert text[4] == text[7] == "-"
    assert text.endswith(": a line")
    line = json.loads(JsonLines().format(made))
    assert (line["message"], line["level"], line["logger"]) == ("a line", "INFO", "vllm.x")
    assert line["time"].endswith("Z")
