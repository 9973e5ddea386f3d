"""Waits for a job, with a progress bar on stderr."""

import time
from typing import TYPE_CHECKING, Any, Final

from steersman.client.cli import show
from steersman.client.errors import CliError, Refused, Unreachable

if TYPE_CHECKING:
    from rich.progress import Progress

    from steersman.client.http import Client

ENDED: Final = ("succeeded", "failed", "cancelled")
EVERY_S: Final = 0.5
_LOST: Final = 20
"""Polls in a row that may find no server: a proxy that is restarted loses no job."""
_PATIENCE_S: Final = 10.0
"""How long a cancelled job may take to end before we leave it to itself."""


def watch(client: "Client", job: dict[str, Any], *, cancel: bool = False) -> dict[str, Any]:
    """Wait until the job has ended, and return it. Ctrl-C raises KeyboardInterrupt; with `cancel`
    the job is cancelled first. Raises `Refused` and `Unreachable`."""
    try:
        with _bar() as bar:
            task = bar.add_task("waiting", total=None, rate="", left="")
            while True:
                done = job["progress"]
                bar.update(
                    task,
                    description=job["phase"] if job["status"] == "running" else job["status"],
                    completed=done["done"],
                    total=done["total"] or None,
                    rate=f"{done['rate']:g} texts/s" if done["rate"] else "",
                    left=f"{done['eta_s']:.0f} s left" if done["eta_s"] else "",
                )
                if job["status"] in ENDED:
                    return job
                time.sleep(EVERY_S)
                job = _poll(client, job["id"])
    except KeyboardInterrupt:
        if cancel:
            _cancel(client, job["id"])
        raise


def show_texts(job: dict[str, Any]) -> None:
    """Print which token of some texts was read, and the job's warnings, if the server sends
    them."""
    for sample in job.get("samples", []):
        tokens = "" if sample["tokens"] == 1 else f" ({sample['tokens']} tokens)"
        show.note(
            f"read of row {sample['row']} ({sample['label']}): {sample['token']!r}{tokens}"
            + (f" after {sample['before']!r}" if sample["before"] else "")
        )
    for warning in job.get("warnings", []):
        show.note(f"warning: {warning['message']}")


def check_succeeded(job: dict[str, Any]) -> None:
    """Raise `Refused` for a job that failed or was cancelled, with the server's reason."""
    if job["status"] == "succeeded":
        return
    error = job["error"] or {}
    rows = job["bad_rows"]
    raise Refused(
        f"{job['id']} {job['status']}" + (f": {error['message']}" if error.get("message") else ""),
        param=error.get("param"),
        code=error.get("code") or f"job_{job['status']}",
        remedy=f"{len(rows)} rows could not be read; `steersman jobs show {job['id']}` names them"
        if rows
        else None,
    )


def _poll(client: "Client", job_id: str) -> dict[str, Any]:
    for _ in range(_LOST):
        try:
            return dict(client.job(job_id))
        except Unreachable:
            time.sleep(EVERY_S)
    return dict(client.job(job_id))


def _cancel(client: "Client", job_id: str) -> None:
    try:
        job = client.cancel(job_id)
        deadline = time.monotonic() + _PATIENCE_S
        while job["status"] not in ENDED and time.monotonic() < deadline:
            time.sleep(EVERY_S / 2)
            job = client.job(job_id)
    except CliError as error:
        show.note(f"{job_id} could not be cancelled: {error.message}")
    else:
        show.note(f"{job_id} is {job['status']}")


def _bar() -> "Progress":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[left]}"),
        console=show.err(),
    )
