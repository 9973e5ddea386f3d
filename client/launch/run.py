"""The directory of one running server. Its processes find it through the environment."""

import atexit
import json
import logging.config
import os
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

from steersman.steering.logs import CONFIG, FORMAT, RUN, VERBOSE
from steersman.steering.plan.settings import default_home

FORMATS = ("text", "json", "vllm")
_IGNORED = ("ignore::UserWarning:multiprocessing.resource_tracker", "ignore::FutureWarning")
_VLLM_OPTIONS = ("--log-config-file", "--logging-config", "--log-level")


class Run:
    """One start of a server. `folder` is removed when this process ends."""

    def __init__(self, *, log_format: str, verbose: bool, theirs: list[str]) -> None:
        """Set the environment that vLLM's processes read. Call before vLLM is imported.

        `theirs` are vLLM's options. If one of them, or `VLLM_LOGGING_CONFIG_PATH` in the
        environment, configures its log, that is kept and ours is not used.
        """
        self.verbose = verbose
        self.folder = Path(tempfile.mkdtemp(prefix="steersman-"))
        self._owner = os.getpid()
        atexit.register(self.remove)
        os.environ[RUN] = str(self.folder)
        os.environ[VERBOSE] = "1" if verbose else "0"
        configured = any(word.startswith(_VLLM_OPTIONS) for word in theirs)
        configured = configured or os.environ.get("VLLM_CONFIGURE_LOGGING") == "0"
        if log_format == "vllm" or configured or os.environ.get("VLLM_LOGGING_CONFIG_PATH"):
            return
        os.environ[FORMAT] = log_format
        config = self.folder / "logging.json"
        config.write_text(json.dumps(CONFIG))
        os.environ["VLLM_LOGGING_CONFIG_PATH"] = str(config)
        if not verbose:
            _quieten()
        # vLLM does so when it makes its configuration; what it logs before has another form.
        logging.config.dictConfig(CONFIG)

    @property
    def ready(self) -> bool:
        """Whether the server has answered for the first time."""
        return (self.folder / "ready").exists()

    def set_ready(self) -> None:
        """Mark the start as finished."""
        (self.folder / "ready").touch()

    @property
    def trace(self) -> str:
        """Tracebacks of this start, in order of time."""
        try:
            return (self.folder / "trace").read_text(errors="replace")
        except OSError:
            return ""

    def keep_trace(self, more: str) -> Path | None:
        """Write all tracebacks of this start, and `more`, to a file that stays. Returns its path,
        None if it cannot be written."""
        name = f"serve-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
        for folder in (default_home() / "logs", Path(tempfile.gettempdir())):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / name
                path.write_text(f"{self.trace}{more}", errors="replace")
            except OSError:
                continue
            return path
        return None

    def remove(self) -> None:
        """Remove the directory, in the process that made it."""
        if os.getpid() == self._owner:
            shutil.rmtree(self.folder, ignore_errors=True)


def _quieten() -> None:
    """Hide Python's and the libraries' own warnings, which no log configuration reaches. Variables
    that the user has set are kept."""
    given = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join([*([given] if given else []), *_IGNORED])
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")
