"""Ends an engine core whose API server has ended.

vLLM's workers watch their engine core; the engine core watches no process. Without this, an API
server that is killed with -9 would leave its engine core behind, with all of its memory and still
computing.
"""

import multiprocessing
import os
import sys
import threading
from multiprocessing.connection import wait

_PROCESS = "EngineCore"


def leave_with_parent() -> None:
    """In an engine core's own process: exit as soon as the process that started it has ended. Does
    nothing in other processes. Idempotent."""
    parent = multiprocessing.parent_process()
    mine = multiprocessing.current_process().name.startswith(_PROCESS)
    if parent is None or not mine or _watcher.ident is not None:
        return
    _watcher.start()


def _watch() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    print("steersman: the API server has ended, so the engine core ends too", file=sys.stderr)
    # Not a signal to ourselves: the engine would finish what it computes, for no client.
    os._exit(1)


_watcher = threading.Thread(target=_watch, name="steersman-parent-watch", daemon=True)
