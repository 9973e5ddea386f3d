"""What a steered request asks of the engine: pure data and arithmetic, no vLLM, no tensors.

This package is the one part of `steering` that `server` may import.
"""

from steersman.steering.plan.dynamic import Choice, Dynamic
from steersman.steering.plan.errors import PlanInvalid, VectorUnavailable
from steersman.steering.plan.inbox import RECEIPTS, ReceiptInbox
from steersman.steering.plan.limits import MAX_SCHEDULE, STEERABLE_SITES, Limits
from steersman.steering.plan.plan import PLAN_KEY, BankKey, Plan, PlannedVector
from steersman.steering.plan.positions import NAMED_RULES, PositionRule, check_rule, interval
from steersman.steering.plan.receipt import BANK_FULL, NOT_FINITE, Refusal, StepReport, WorkerNote
from steersman.steering.plan.settings import Settings

__all__ = [
    "BANK_FULL",
    "MAX_SCHEDULE",
    "NAMED_RULES",
    "NOT_FINITE",
    "PLAN_KEY",
    "RECEIPTS",
    "STEERABLE_SITES",
    "BankKey",
    "Choice",
    "Dynamic",
    "Limits",
    "Plan",
    "PlanInvalid",
    "PlannedVector",
    "PositionRule",
    "ReceiptInbox",
    "Refusal",
    "Settings",
    "StepReport",
    "VectorUnavailable",
    "WorkerNote",
    "check_rule",
    "interval",
]
