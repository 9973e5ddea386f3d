"""What a steered request needs of the engine, and what comes back: data and arithmetic, no vLLM.

    plan          vectors, hook points, coefficients, positions of one request
    positions     which tokens a rule steers
    dynamic       settings of dynamic composition
    limits        what every plan must meet
    cache_key     keys of blocks in the prefix cache
    capture       what is captured of a request, and its form on the wire
    receipt       counts of a request, and their form on the wire
    when/         gates and markers: when a use of a vector acts
    wire/         what travels with a step besides
    inbox         where both arrive in the API server's process
    step_clock    how much longer captures make a step
    intent        keys of a request that mean steering at the wrong place
    settings      what an operator sets
    errors        the errors of the room

`server` may import this folder of the room, and `steering.logs`.
"""

from steersman.steering.plan.dynamic import Choice, Dynamic
from steersman.steering.plan.errors import PlanInvalid, VectorUnavailable
from steersman.steering.plan.inbox import RECEIPTS, ReceiptInbox
from steersman.steering.plan.limits import MAX_SCHEDULE, STEERABLE_SITES, Limits
from steersman.steering.plan.plan import PLAN_KEY, BankKey, Plan, PlannedVector
from steersman.steering.plan.positions import NAMED_RULES, PositionRule, check_rule, interval
from steersman.steering.plan.receipt import (
    BANK_FULL,
    NOT_FINITE,
    SLOW,
    Refusal,
    StepReport,
    WorkerNote,
)
from steersman.steering.plan.settings import Settings

__all__ = [
    "BANK_FULL",
    "MAX_SCHEDULE",
    "NAMED_RULES",
    "NOT_FINITE",
    "PLAN_KEY",
    "RECEIPTS",
    "SLOW",
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
