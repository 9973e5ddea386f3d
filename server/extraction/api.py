"""REST for extraction: make a vector on the served model, and watch it being made."""

import json
from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import Response

from steersman.server.auth.audit import audit_line
from steersman.server.auth.caller import caller
from steersman.server.auth.permissions import ADMIN
from steersman.server.dependencies import AllJobs, CallersExtraction, MaxExtractRows
from steersman.server.extraction.context import ExtractionContext
from steersman.server.extraction.job import PATCH, Job
from steersman.server.extraction.jobs import Jobs, job_not_found
from steersman.server.extraction.pipeline import run
from steersman.server.extraction.request import ExtractRequest, read_request
from steersman.server.extraction.samples import (
    Sample,
    check_paired,
    check_sides,
    json_lines,
    needs_template,
    samples_of,
)
from steersman.server.library.lanes import READS, TEXTS
from steersman.server.library.openapi import errors
from steersman.vectors.errors import VectorConflict, VectorInvalid, VectorNotFound

LISTED_BAD_ROWS: Final = 10
"""Of each job in a list; `GET /v1/steering/jobs/{id}` has all."""
_FORM_FIELD: Final = 1 << 20
"""Largest `request` part of a form, in bytes; the texts are in its file."""


def build_router() -> APIRouter:
    """The routes. Add them to the app before those of the vectors, whose paths match everything
    below them."""
    router = APIRouter(prefix="/v1/steering", tags=["steering"], responses=errors(500))
    router.add_api_route(
        "/vectors/extract",
        extract,
        methods=["POST"],
        status_code=202,
        responses=errors(400, 408, 409, 413, 507),
        openapi_extra={"requestBody": _BODY},
    )
    router.add_api_route("/jobs", list_jobs, methods=["GET"])
    one = "/jobs/{job_id}"
    router.add_api_route(one, get_job, methods=["GET"], responses=errors(404))
    router.add_api_route(one, cancel_job, methods=["DELETE"], responses=errors(404, 507))
    return router


async def extract(
    request: Request, jobs: AllJobs, context: CallersExtraction, most: MaxExtractRows
) -> dict[str, Any]:
    """Start a job that makes a vector; `GET /v1/steering/jobs/{id}` shows its progress."""
    body, lines = await _body(request)
    # In threads: reading 60 MiB takes long, and nobody else is to wait for it.
    wanted = await TEXTS.run(read_request, body, most)
    samples = await TEXTS.run(_rows, wanted, lines, most)
    names = await READS.run(_free_names, wanted, samples, context)
    # Before it is queued: what is wrong with the request is an error at once.
    if needs_template(wanted, samples):
        await TEXTS.run(context.reader(wanted).check_template)
    context.place(wanted.capture_site, tuple(wanted.layers or ()))
    _check_steps(wanted, context)
    _check_operation(wanted, context)
    _check_trials(wanted, context)

    async def work(job: Job) -> None:
        await run(job, wanted, samples, context)

    permissions = caller().permissions
    job = await jobs.submit(
        wanted.method, wanted.name, work, permissions.name or None, permissions.max_jobs, names
    )
    await audit_line("job.submitted", job=job.id, vector=wanted.name, method=wanted.method)
    return job.to_json()


def prepare(
    body: bytes | str, lines: bytes | None, most: int, context: ExtractionContext
) -> tuple[ExtractRequest, list[Sample]]:
    """What `extract` checks, without a server: the request in `body` and its texts, at most `most`
    of them. Raises `VectorInvalid` and `VectorConflict`."""
    wanted = read_request(body, most)
    samples = _rows(wanted, lines, most)
    _free_names(wanted, samples, context)
    if needs_template(wanted, samples):
        context.reader(wanted).check_template()
    context.place(wanted.capture_site, tuple(wanted.layers or ()))
    _check_steps(wanted, context)
    _check_operation(wanted, context)
    _check_trials(wanted, context)
    return wanted, samples


async def list_jobs(jobs: AllJobs) -> Response:
    """All jobs that are remembered, newest first, each with its first bad rows."""
    return await READS.run(_list, jobs)


async def get_job(job_id: str, jobs: AllJobs) -> Response:
    """One job: its progress, or its result."""
    return await READS.run(lambda: _json(find_job(jobs, job_id).to_json()))


async def cancel_job(job_id: str, jobs: AllJobs) -> dict[str, Any]:
    """Cancel a job. One that has ended stays unchanged."""
    job = await READS.run(find_job, jobs, job_id)
    if await jobs.cancel(job):
        await audit_line("job.cancelled", job=job.id, vector=job.name)
    return job.to_json()


def _list(jobs: Jobs) -> Response:
    # One at a time: the interpreter is held for each of these, and no longer.
    texts = [json.dumps(_short(job.to_json())) for job in jobs.list() if _may_see(job)]
    text = f'{{"object": "list", "data": [{", ".join(texts)}]}}'
    return Response(text, media_type="application/json")


def _short(job: dict[str, Any]) -> dict[str, Any]:
    """A job as lists show it: with few of its bad rows, of which there may be thousands, and
    without its table."""
    bad = job["bad_rows"]
    job.pop("patch", None)
    return {**job, "bad_rows": bad[:LISTED_BAD_ROWS], "bad_rows_total": len(bad)}


def _json(answer: dict[str, Any]) -> Response:
    return Response(json.dumps(answer), media_type="application/json")


def find_job(jobs: Jobs, job_id: str) -> Job:
    """The job. Raises `VectorNotFound`, also for a job that makes a vector the caller may not
    see."""
    job = jobs.find(job_id)
    if not _may_see(job):
        raise job_not_found(job_id)
    return job


def _may_see(job: Job) -> bool:
    """Whether the caller may see all names that the job makes, and the job's own name, because the
    labels of its bad rows are parts of these names. A patching job, which makes none, is its
    owner's."""
    permissions = caller().permissions
    if job.kind == PATCH:
        return job.owner == (permissions.name or None) or permissions.may(ADMIN)
    return all(permissions.sees(name) for name in (job.name, *job.makes))


async def _body(request: Request) -> tuple[bytes | str, bytes | None]:
    """The request as JSON, and its file if there is one."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return await request.body(), None
    try:
        form = await request.form(max_files=1, max_fields=2, max_part_size=_FORM_FIELD)
    except HTTPException as error:
        raise VectorInvalid(
            f"the form cannot be read: {error.detail}", param="file", code="bad_form"
        ) from None
    try:
        file, wanted = form.get("file"), form.get("request")
        if not isinstance(file, UploadFile) or not isinstance(wanted, str):
            raise VectorInvalid(
                "send two parts: request (JSON) and file (JSONL)", param="file", code="bad_form"
            )
        return wanted, await file.read()
    finally:
        await form.close()


def _rows(wanted: ExtractRequest, lines: bytes | None, most: int) -> list[Sample]:
    samples: list[Sample] = []
    for sample in samples_of(wanted, None if lines is None else json_lines(lines, most)):
        if len(samples) == most:
            raise VectorInvalid(
                f"there are more than {most} texts, this server's limit (--max-extract-rows)",
                param="file" if lines is not None else "pairs",
                code="too_many_rows",
            )
        samples.append(sample)
    if wanted.how.paired:
        check_paired(samples)
    check_sides(wanted, samples)
    return samples


def _check_operation(wanted: ExtractRequest, context: ExtractionContext) -> None:
    needed = wanted.how.operation
    if needed not in context.operations:
        raise VectorInvalid(
            f"{wanted.method} makes vectors for the operation `{needed}`, and this server does "
            f"{', '.join(context.operations)}; have it started with --operations {needed}",
            param="method",
            code="operation_not_served",
        )


def _check_trials(wanted: ExtractRequest, context: ExtractionContext) -> None:
    if wanted.how.trials and not context.tries:
        raise VectorInvalid(
            f"{wanted.method} tries its candidates as vectors in requests, which this server does "
            "not take: have it started without --no-inline-vectors, or use mean_difference and "
            "the operation `project`",
            param="method",
            code="not_supported",
        )


def _check_steps(wanted: ExtractRequest, context: ExtractionContext) -> None:
    """Refuse now what the library would refuse after the work: a vector with too many steps."""
    most = context.max_steps
    if wanted.method == "per_step" and most is not None and wanted.steps > most:
        raise VectorInvalid(
            f"a vector may have at most {most} steps here, not {wanted.steps}; send fewer, or "
            "start the server with a higher --max-steps",
            param="steps",
            code="too_many_steps",
        )


def _free_names(
    wanted: ExtractRequest, samples: list[Sample], context: ExtractionContext
) -> list[str]:
    """The names of the vectors to be made. Raises `VectorConflict` or `NotAllowed` before the work,
    for a name that is taken or not allowed."""
    names = [wanted.name]
    if wanted.how.inputs == "styles":
        names = [
            f"{wanted.name}-{label}" for label in dict.fromkeys(sample.label for sample in samples)
        ]
    # The bare name of styles, too: the job goes by it.
    for name in (wanted.name, *names):
        context.library.check_may_name(name)
    for name in names:
        try:
            context.library.resolve(name)
        except VectorNotFound:
            continue
        raise VectorConflict(f"{name!r} is in use; delete it, or choose another name", param="name")
    return names


_BODY: Final = {
    "required": True,
    "content": {
        "application/json": {"schema": ExtractRequest.model_json_schema()},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["request", "file"],
                "properties": {
                    "request": {
                        "type": "string",
                        "description": "The JSON object as above, without texts.",
                    },
                    "file": {
                        "type": "string",
                        "format": "binary",
                        "description": "JSONL, one text or pair a line.",
                    },
                },
            }
        },
    },
}
