"""The log of every process of a server that `steersman serve` starts: one format, quiet by default.

vLLM reads the dictConfig file that `VLLM_LOGGING_CONFIG_PATH` names in each process, and uvicorn
gets the same; `CONFIG` is its content. What it does is set by the environment, because processes
are spawned: `STEERSMAN_RUN` names a directory of this one server, `STEERSMAN_LOG_FORMAT` is `text`
or `json`, `STEERSMAN_VERBOSE=1` shows everything.

Until the server is ready, vLLM's errors go to `trace` in that directory: the launcher prints the
cause of a failed start by itself, in one line.
"""

import atexit
import logging
import multiprocessing
import os
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pythonjsonlogger.json import JsonFormatter

RUN: Final = "STEERSMAN_RUN"
FORMAT: Final = "STEERSMAN_LOG_FORMAT"
VERBOSE: Final = "STEERSMAN_VERBOSE"
LOGGERS: Final = ("vllm", "uvicorn", "uvicorn.access", "steersman")
CONFIG: Final[dict[str, Any]] = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"steersman": {"()": "steersman.steering.logs.make_handler"}},
    # Levels are set by `make_handler`: they depend on the environment.
    "loggers": {name: {"handlers": ["steersman"], "propagate": False} for name in LOGGERS},
}
"""For `logging.config.dictConfig`."""
_CHATTY: Final = ("uvicorn.error", "uvicorn")
_EXPECTED: Final = (
    "Enforce eager set",
    "Inductor compilation was disabled",
    "Triton is ",
    "Reset SSM cache type",
    "libtcmalloc is not found",
    "libiomp is not found",
    "OMP_NUM_THREADS=",
    "Found ulimit of",
    "Default vLLM sampling parameters have been overridden",
    "Passing raw prompts to InputProcessor",
)
"""Warnings of vLLM's about what our own defaults choose, or what no user can change."""
_PROBES: Final = ("/health", "/ready", "/ping", "/metrics")
"""Called every few seconds; an answer of 200 is not logged."""


class Place:
    """The directory of one running server; its files show how far the start is."""

    def __init__(self, folder: Path) -> None:
        self.trace = folder / "trace"
        self.ready = folder / "ready"

    @classmethod
    def here(cls) -> "Place | None":
        """That of this process's server; None if `steersman serve` did not start it."""
        folder = os.environ.get(RUN)
        return cls(Path(folder)) if folder else None

    def note(self, text: str) -> None:
        """Add a traceback to `trace`; a disk that refuses costs the traceback, not the server."""
        head = f"=== {datetime.now(UTC).isoformat(timespec='milliseconds')} {_process()}\n"
        try:
            with self.trace.open("a", encoding="utf-8", errors="replace") as file:
                file.write(f"{head}{text.rstrip()}\n")
        except OSError:
            pass


def make_handler() -> logging.Handler:
    """The one handler of all `LOGGERS` in this process; sets their levels, too."""
    level = os.environ.get("VLLM_LOGGING_LEVEL", "INFO").upper()
    for name in LOGGERS:
        logging.getLogger(name).setLevel(level)
    errors = os.environ.get("VLLM_LOGGING_STREAM", "").endswith("stderr")
    handler = logging.StreamHandler(sys.stderr if errors else sys.stdout)
    verbose = os.environ.get(VERBOSE) == "1"
    as_json = os.environ.get(FORMAT) == "json"
    handler.setFormatter(JsonLines() if as_json else TextLines(verbose=verbose))
    place = Place.here()
    if place is not None and not verbose:
        handler.addFilter(Quiet(place))
        _hush(place)
    return handler


class TextLines(logging.Formatter):
    """`2026-11-28 18:40:12.123 INFO APIServer: message`, and with `verbose` where it comes from."""

    default_time_format = "%Y-%m-%d %H:%M:%S"
    default_msec_format = "%s.%03d"

    def __init__(self, *, verbose: bool = False) -> None:
        place = " [%(name)s:%(lineno)d]" if verbose else ""
        super().__init__(f"%(asctime)s %(levelname)s %(process_name)s:{place} %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        record.process_name = _process(record)
        return super().format(record)


class JsonLines(JsonFormatter):
    """One JSON object a line: time (UTC), level, logger, process, pid, message, exception."""

    def __init__(self) -> None:
        super().__init__(json_default=str, json_ensure_ascii=False)

    def add_fields(
        self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]
    ) -> None:
        """Fill one line."""
        log_data |= {
            "time": utc(record.created),
            "level": record.levelname,
            "logger": record.name,
            "process": _process(record),
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            log_data["exception"] = self.formatException(record.exc_info)


def utc(seconds: float) -> str:
    """A time of the epoch in ISO 8601, `2026-11-28T18:40:12.123Z`."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


class Quiet(logging.Filter):
    """Leaves out what an operator does not need: vLLM's progress while it starts and stops, and
    uvicorn's. Warnings, errors and everything of ours stay."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place
        self._ready = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether `record` is logged; while the server starts, without its traceback."""
        if record.levelno < logging.WARNING:
            if record.name in _CHATTY:
                return False
            if record.name == "uvicorn.access":
                return not _is_probe(record)
            if record.name.startswith("vllm") and not record.name.startswith("vllm.steersman"):
                return self._has_started() and not _is_ending(record)
            return True
        if self._has_started():
            return record.levelno > logging.WARNING or not _is_ending(record)
        if record.levelno == logging.WARNING:
            return not record.getMessage().startswith(_EXPECTED)
        return not self._noted(record)

    def _has_started(self) -> bool:
        self._ready = self._ready or self._place.ready.exists()
        return self._ready

    def _noted(self, record: logging.LogRecord) -> bool:
        """Put an error of the start into `trace`; False for one of ours, whose message is
        enough."""
        message = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            trace = "".join(traceback.format_exception(*record.exc_info))
            self._place.note(f"{message.rstrip()}\n{trace}")
            return True
        if record.name.startswith("vllm") and not record.name.startswith("vllm.steersman"):
            self._place.note(message)
            return True
        return False


def _is_ending(record: logging.LogRecord) -> bool:
    """Whether vLLM reports how its processes end."""
    return str(record.msg).startswith("[shutdown]")


def _is_probe(record: logging.LogRecord) -> bool:
    """Whether this is uvicorn's access line of a probe that was answered with 200."""
    args = record.args
    return (
        isinstance(args, tuple)
        and len(args) == 5
        and str(args[2]).partition("?")[0] in _PROBES
        and args[4] == 200
    )


def _process(record: logging.LogRecord | None = None) -> str:
    """vLLM's name of a process, which a log line begins with."""
    named = getattr(record, "vllm_process_name", None)
    name = named or multiprocessing.current_process().name
    return "APIServer" if name == "MainProcess" else str(name)


_hushed: list[Place] = []


def _hush(place: Place) -> None:
    """Keep two kinds of noise from the terminal: the traceback that multiprocessing prints for a
    process which has logged it already, and what libraries print when the interpreter ends."""
    if _hushed:
        return
    _hushed.append(place)
    atexit.register(_close_stderr)
    if multiprocessing.parent_process() is None:
        return
    print_exc = traceback.print_exc

    def quiet_print_exc(*args: Any, **kwargs: Any) -> None:
        if args or kwargs or place.ready.exists():
            print_exc(*args, **kwargs)
        else:
            place.note(traceback.format_exc())

    traceback.print_exc = quiet_print_exc


def _close_stderr() -> None:
    """nanobind lists types that it calls leaked, by the hundred, after Python code has ended."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, 2)
    except (OSError, ValueError):
        pass
