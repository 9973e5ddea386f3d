"""`steersman jobs ...`: extractions and patching jobs that run, wait or have ended."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from steersman.client import paths
from steersman.client.cli import show
from steersman.client.cli.options import Json, Key, Server, connection, wants_json, with_examples
from steersman.client.cli.watch import ENDED, check_succeeded, show_texts, watch

app = typer.Typer(
    help="List, show and cancel extractions and patching jobs.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
JobId = Annotated[str, typer.Argument(metavar="ID", help="The job, as in job-0123456789abcdef.")]


@app.command(
    "list",
    help=with_examples(
        "List jobs, newest first.",
        """
        steersman jobs list
        steersman jobs list --json | jq -r '.data[] | select(.status == "running").id'
        """,
    ),
)
def list_jobs(
    ctx: typer.Context, server: Server = None, api_key: Key = None, as_json: Json = False
) -> None:
    """`steersman jobs list`."""
    asked = wants_json(ctx, as_json)
    with connection(ctx, server, api_key) as client:
        found = client.get(paths.JOBS)
    if asked:
        show.print_json(found)
    elif not found["data"]:
        show.note("there are no jobs")
    else:
        show.table(
            ("id", "status", "method", "name", "progress", "started"),
            [_row(job) for job in found["data"]],
            numbers=("progress",),
        )


@app.command(
    "show",
    help=with_examples(
        "Show a job: its progress, or its result.",
        """
        steersman jobs show job-0123456789abcdef
        steersman jobs show job-0123456789abcdef --wait        until it has ended
        """,
        after="With --wait the exit status is 1 unless the job succeeds.",
    ),
)
def show_job(
    ctx: typer.Context,
    job_id: JobId,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has ended.")] = False,
    server: Server = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """`steersman jobs show`."""
    asked = wants_json(ctx, as_json)
    with connection(ctx, server, api_key) as client:
        job = client.job(job_id)
        if wait and job["status"] not in ENDED:
            job = watch(client, job)
    if wait:
        check_succeeded(job)
    if asked:
        show.print_json(job)
    else:
        show.fields(_fields(job))
        _bad_rows(job)
        show_texts(job)


@app.command(
    "cancel",
    help=with_examples(
        "Cancel a job; one that has ended stays as it is.",
        """
        steersman jobs cancel job-0123456789abcdef
        """,
    ),
)
def cancel_job(
    ctx: typer.Context,
    job_id: JobId,
    server: Server = None,
    api_key: Key = None,
    as_json: Json = False,
) -> None:
    """`steersman jobs cancel`."""
    asked = wants_json(ctx, as_json)
    with connection(ctx, server, api_key) as client:
        job = client.cancel(job_id)
    if asked:
        show.print_json(job)
    else:
        show.result(f"{job['id']} is {job['status']}")


def _row(job: dict[str, Any]) -> tuple[str, ...]:
    done = job["progress"]
    return (
        job["id"],
        job["status"],
        job["method"],
        job["name"],
        f"{done['done']}/{done['total']}",
        _time(job["started_at"]) or "-",
    )


def _fields(job: dict[str, Any]) -> list[tuple[str, Any]]:
    done = job["progress"]
    error = job["error"] or {}
    return [
        ("id", job["id"]),
        ("status", job["status"]),
        ("phase", None if job["status"] in ENDED else job["phase"]),
        ("makes", f"{job['name']} by {job['method']}" if job["type"] == "extract" else "a table"),
        ("texts", f"{done['done']} of {done['total']}"),
        ("rate", done["rate"] and f"{done['rate']:g} texts/s"),
        ("left", done["eta_s"] and f"{done['eta_s']:g} s"),
        ("started", _time(job["started_at"])),
        ("ended", _time(job["ended_at"])),
        ("vectors", ", ".join(job["vectors"])),
        ("error", error.get("message")),
        ("param", error.get("param")),
    ]


def _bad_rows(job: dict[str, Any]) -> None:
    if job["bad_rows"]:
        rows = [(row["row"], row["label"], row["reason"]) for row in job["bad_rows"]]
        show.table(("row", "side", "why it was left out"), rows, numbers=("row",))


def _time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(" ", "seconds")
