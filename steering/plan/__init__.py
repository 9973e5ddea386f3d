"""What a steered request asks of the engine: pure data and arithmetic, no vLLM, no tensors.

This package is the one part of `steering` that `server` may import.
"""

from steersman.steering.plan.dynamic import Choice, Dynamic
from steersman.steering.plan.errors import PlanInvalid, VectorUnavailable
from steersman.steering.plan.limits import MAX_SCHEDULE, STEERABLE_SITES, Limits
from steersman.steering.plan.plan import PLAN_KEY, BankKey, Plan, PlannedVector
from steersman.steering.plan.positions import NAMED_RULES, PositionRule, check_rule, interval
from steersman.steering.plan.receipt import (
    BANK_FULL,
    DESK,
    NOT_FINITE,
    ReceiptDesk,
    Refusal,
    StepReport,
    WorkerNote,
)
from steersman.steering.plan.settings import Settings

__all__ = [
    "BANK_FULL",
    "DESK",
    "MAX_SCHEDULE",
    "NAMED_RULES",
    "NOT_FINITE",
    "PLAN_KEY",
    "STEERABLE_SITES",
    "BankKey",
    "Choice",
    "Dynamic",
    "Limits",
    "Plan",
    "PlanInvalid",
    "PlannedVector",
    "PositionRule",
    "ReceiptDesk",
    "Refusal",
    "Settings",
    "StepReport",
    "VectorUnavailable",
    "WorkerNote",
    "check_rule",
    "interval",
]
