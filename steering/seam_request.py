"""Seam: vLLM's request in the engine core (`v1/request.py: Request`), and the plan it carries."""

from typing import Any

from steering.plan.plan import PLAN_KEY, Plan


def plan_of(request: Any) -> Plan | None:
    """The plan of a request, read once; None if it is not steered. Raises `PlanInvalid`."""
    params = request.sampling_params
    if params is None or not params.extra_args or PLAN_KEY not in params.extra_args:
        return None
    plan: Plan | None = getattr(request, "_steersman_plan", None)
    if plan is None:
        plan = request._steersman_plan = Plan.of(params.extra_args)
    return plan
