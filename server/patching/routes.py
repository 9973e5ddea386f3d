"""REST: start a patching job, and see its table as a picture."""

from typing import Any, Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from steersman.server.auth.audit import audit_line
from steersman.server.auth.caller import caller
from steersman.server.dependencies import AllJobs, CallersPatching
from steersman.server.extraction.api import find_job
from steersman.server.extraction.job import PATCH, Job
from steersman.server.library.lanes import READS, TEXTS
from steersman.server.library.openapi import errors, self_contained
from steersman.server.patching.heat_map import heat_map
from steersman.server.patching.prompts import read_prompts
from steersman.server.patching.request import PatchRequest, read_request
from steersman.server.patching.run import check, run
from steersman.vectors.errors import VectorNotFound

PNG: Final = "image/png"
_BODY: Final[dict[str, Any]] = {
    "required": True,
    "content": {"application/json": {"schema": self_contained(PatchRequest.model_json_schema())}},
}


def build_router() -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/v1/steering", tags=["steering"], responses=errors(500))
    router.add_api_route(
        "/patch",
        patch,
        methods=["POST"],
        status_code=202,
        responses=errors(400, 408, 413, 507),
        openapi_extra={"requestBody": _BODY},
    )
    router.add_api_route(
        "/jobs/{job_id}/heat_map",
        get_heat_map,
        methods=["GET"],
        response_class=Response,
        responses={200: {"content": {PNG: {}}, "description": "a picture"}, **errors(404)},
    )
    return router


async def patch(request: Request, jobs: AllJobs, context: CallersPatching) -> dict[str, Any]:
    """Start a job that patches activations; `GET /v1/steering/jobs/{id}` has its progress and its
    table."""
    wanted = await TEXTS.run(read_request, await request.body())
    patches = await TEXTS.run(
        read_prompts, wanted, context.extraction, context.num_layers, context.most_runs
    )
    check(patches, context)

    async def work(job: Job) -> None:
        await run(job, patches, context)

    permissions = caller().permissions
    job = await jobs.submit(
        PATCH, PATCH, work, permissions.name or None, permissions.max_jobs, kind=PATCH
    )
    await audit_line("job.submitted", job=job.id, method=PATCH)
    return job.to_json()


async def get_heat_map(job_id: str, jobs: AllJobs) -> Response:
    """The table of a patching job that has ended, as a PNG."""
    job = await READS.run(find_job, jobs, job_id)
    if job.patch is None:
        raise VectorNotFound(
            f"{job.id} has no heat map: it is not a patching job, or has not succeeded (it is "
            f"{job.status}); GET /v1/steering/jobs/{job.id} shows it",
            param="job_id",
            code="no_heat_map",
        )
    return Response(await READS.run(heat_map, job.patch), media_type=PNG)
