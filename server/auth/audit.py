"""One line of JSON for every change: who, when, from where, what.

    {"time": "2026-11-22T20:15:03.120Z", "audit": "vector.created", "key": "alice", "client":
     "10.0.3.7", "request_id": null, "vector": "cheerful", "digest": "sha256:..."}

Events: vector.created, vector.updated, vector.deleted, preset.created, preset.updated,
preset.deleted, job.submitted, job.cancelled, admin.called, keys.loaded. Lines go to standard
output, among the log's lines, or to the file of `--audit-log`. The file is opened for each line, so
it can be moved away while the server runs.
"""

import asyncio
import contextvars
import logging
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from pythonjsonlogger.json import JsonFormatter

from steersman.server.auth.caller import caller
from steersman.steering.logs import utc

_FORM: Final = JsonFormatter([])
_WRITER: Final = ThreadPoolExecutor(1, "steersman-audit")
"""A thread of its own: a disk that hangs must stop neither the event loop nor other work."""
logger = logging.getLogger("vllm.steersman")


class _Sink:
    """Where lines are written."""

    path: str | None = None


def write_to(path: str | None) -> None:
    """Write lines to the file `path` from now on; None: to standard output."""
    _Sink.path = path


async def audit_line(event: str, **fields: Any) -> None:
    """Call `audit` in a thread, for code on the event loop."""
    context = contextvars.copy_context()

    def write() -> None:
        context.run(audit, event, **fields)

    await asyncio.get_running_loop().run_in_executor(_WRITER, write)


def audit(event: str, **fields: Any) -> None:
    """Write one line. This waits for the disk: call it in a thread, or at start. A failure to write
    is logged, and does not undo the change."""
    who = caller()
    line = {
        "time": utc(time.time()),
        "audit": event,
        "key": who.permissions.name or None,
        "client": who.address,
        "request_id": who.request_id,
        **fields,
    }
    text = _FORM.format(logging.makeLogRecord({"msg": line})) + "\n"
    try:
        if _Sink.path is None:
            sys.stdout.write(text)
            sys.stdout.flush()
            return
        # Lines of several processes do not mix: one write each, at the end.
        file = os.open(_Sink.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        try:
            os.write(file, text.encode())
        finally:
            os.close(file)
    except OSError as error:
        logger.error("audit line not written (%s): %s", error, text.rstrip())
