"""Dynamic requests in the scheduler: an answer and the companions beside it.

An answer that is composed dynamically needs the next-token distributions of k + 1 other histories
over its own tokens: unsteered, and each property alone. Each is a request of the scheduler like any
other, a companion, with blocks of its own and a prefix that the cache shares. What makes them
streams of one answer:

- A companion's sampled token is dropped. It has computed all its tokens then, and vLLM passes over
  such a request until it has one more: the answer's, which is appended when it is known.
- The answer is held (`Request.next_decode_eligible_step`) until its companions have computed the
  tokens that it has; the coefficients follow from their logits, in the worker.

So a token takes two steps, in both of which all other requests run too.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

from steersman.steering.plan.plan import Plan

FOREVER = 2**62
"""No step of the scheduler has this number."""


MakeCompanion = Callable[[Any, Plan, int], Any]
"""(answer, its plan, stream) -> the engine's request of that companion."""


class Group(NamedTuple):
    """An answer and its companions, vLLM's requests."""

    answer: Any
    companions: tuple[Any, ...]

    @property
    def members(self) -> tuple[Any, ...]:
        """All of them, those first that run first."""
        return (*self.companions, self.answer)


class CompanionScheduler:
    """The dynamic requests of one scheduler, in the order in which they came.

    Guarantees: at most `max_running` run at once; groups start one at a time, stream by stream, so
    that two that have half of what they need never wait for each other; what an answer's companions
    hold goes with it, however it goes.
    """

    def __init__(self, scheduler: Any, max_running: int, make: MakeCompanion) -> None:
        self._scheduler = scheduler
        self._make = make
        self._max_running = max_running
        self._groups: dict[str, Group] = {}
        self._answer: dict[str, str] = {}
        """Id of the answer of each companion."""
        self.infeasible = set[str]()
        """Answers that do not fit even alone: the check of the front end has miscounted."""
        self._exclusive_group: Group | None = None
        """The only group that may start, until its answer has one more token."""
        self._exclusive_until = 0
        self._admissible: list[Group] = []
        """Groups that may run in the coming step."""
        self._idle = False
        """Whether the last step computed nothing, though it was free to."""

    def __len__(self) -> int:
        """Number of companions."""
        return len(self._answer)

    def add(self, answer: Any, plan: Plan) -> tuple[Any, ...]:
        """Track a new dynamic request. Returns its companions, which the caller adds to the
        scheduler."""
        count = len(plan.vectors) + 1
        companions = tuple(self._make(answer, plan, stream) for stream in range(count))
        self._groups[answer.request_id] = Group(answer, companions)
        self._answer.update((c.request_id, answer.request_id) for c in companions)
        return companions

    def answer_of(self, request_id: str) -> str:
        """Id of the answer whose companion a request is; its own id for any other request."""
        return self._answer.get(request_id, request_id)

    def is_companion(self, request_id: str) -> bool:
        """Whether this request is a companion, which no client knows."""
        return request_id in self._answer

    def is_admissible(self, request: Any) -> bool:
        """Whether a waiting request may start, as far as groups are concerned."""
        group = self._groups.get(self.answer_of(request.request_id))
        if self._exclusive_group is not None and group is not self._exclusive_group:
            return False
        if group is None:
            return True
        if group is not self._entering():
            return False
        if request is group.answer:
            return _caught_up(group)
        # The prompt's blocks are computed once: by the first stream, for the others to find.
        first = group.companions[0]
        cached = self._scheduler.cache_config.enable_prefix_caching
        shares = cached and request.num_prompt_tokens > self._scheduler.block_size
        return request is first or not shares or first.num_computed_tokens >= first.num_tokens

    def before_step(self) -> None:
        """Hold the answers whose companions have not computed their latest token."""
        for group in self._groups.values():
            group.answer.next_decode_eligible_step = 0 if _caught_up(group) else FOREVER
        if (
            self._exclusive_group is not None
            and self._exclusive_group.answer.num_tokens > self._exclusive_until
        ):
            self._exclusive_group = None
        self._admissible = self._in_order()[: self._max_running]
        if self._idle:
            self._make_way()

    def after_step(self, output: Any, *, throttled: bool) -> dict[str, int]:
        """Take note of a step, vLLM's SchedulerOutput; `throttled`: no prompt was to be computed in
        it. For each companion in it, the last token that it computes."""
        free = not throttled and self._scheduler.pause_state.name == "UNPAUSED"
        lost = output.preempted_req_ids  # They had room for others.
        self._idle = free and not lost and output.total_num_scheduled_tokens == 0
        scheduled = [self._scheduler.requests[n] for n in output.num_scheduled_tokens]
        return {
            one.request_id: one.all_token_ids[one.num_computed_tokens - 1]
            for one in scheduled
            if one.request_id in self._answer
        }

    def drop_samples(self, runner_output: Any) -> None:
        """Take off a step's output what was sampled for companions."""
        rows, sampled = runner_output.req_id_to_index, runner_output.sampled_token_ids
        for companion in self._answer if sampled else ():
            if companion in rows:
                sampled[rows[companion]] = []

    def append_answer_tokens(self) -> None:
        """Give companions the token that their answer got."""
        for answer, companions in self._groups.values():
            for companion in companions:
                for token in answer.all_token_ids[companion.num_tokens :]:
                    companion.append_output_token_ids(token)

    def pop_orphaned_companions(self) -> set[str]:
        """Ids of companions whose answer has ended. They are forgotten here."""
        gone = [name for name, group in self._groups.items() if group.answer.is_finished()]
        found = set[str]()
        for name in gone:
            self.infeasible.discard(name)
            found |= {c.request_id for c in self._groups.pop(name).companions}
        if self._exclusive_group is not None and self._exclusive_group.answer.is_finished():
            self._exclusive_group = None
        for companion in found:
            del self._answer[companion]
        return found

    def members_of(self, request_id: str) -> tuple[Any, ...]:
        """All streams of an answer, those first that run first; none for any other request."""
        group = self._groups.get(request_id)
        return group.members if group is not None else ()

    def with_companions(self, request_ids: set[str]) -> set[str]:
        """These requests, and the companions of those that are answers."""
        groups = [self._groups[name] for name in request_ids if name in self._groups]
        return request_ids | {c.request_id for group in groups for c in group.companions}

    def _entering(self) -> Group | None:
        """The first group that does not run as a whole, if it may; none that waits for bank rows:
        others have them, whom it must not keep out."""
        admission = self._scheduler.steering_admission
        return next(
            (
                g
                for g in self._admissible
                if not _whole(g) and admission.is_admitted(g.answer.request_id)
            ),
            None,
        )

    def _make_way(self) -> None:
        """Call after a step that computed nothing though the first group could run. Until that
        group has one more token no other request starts, which might be before it in the queue. And
        other groups that have a part of what they need give it back, the last of them first."""
        scheduler, entering = self._scheduler, self._entering()
        if entering is None or not any(
            _waits(m) and self.is_admissible(m) for m in entering.members
        ):
            return
        others = [g for g in self._in_order() if g is not entering and any(map(_runs, g.members))]
        for request in reversed(others[-1].members if others else ()):
            if _runs(request):
                scheduler.running.remove(request)
                scheduler._preempt_request(request, time.monotonic())
        if self._exclusive_group is entering and not others:
            self.infeasible.add(entering.answer.request_id)
        self._exclusive_group, self._exclusive_until = entering, entering.answer.num_tokens

    def _in_order(self) -> list[Group]:
        """The groups, those first that vLLM serves first, but behind those that have bank rows
        already: for these it might wait."""
        groups, admission = list(self._groups.values()), self._scheduler.steering_admission
        if self._scheduler.policy.value == "priority":
            groups.sort(key=lambda group: (group.answer.priority, group.answer.arrival_time))
        return sorted(groups, key=lambda group: not admission.is_admitted(group.answer.request_id))


def _runs(request: Any) -> bool:
    return bool(request.status.name == "RUNNING")


def _whole(group: Group) -> bool:
    """Whether all of a group runs."""
    return all(map(_runs, group.members))


def _waits(request: Any) -> bool:
    """Whether a request waits for nothing but its turn."""
    return request.status.name in ("WAITING", "PREEMPTED")


def _caught_up(group: Group) -> bool:
    """Whether all companions have computed all that the answer has."""
    return all(
        _runs(one) and one.num_computed_tokens == one.num_tokens == group.answer.num_tokens
        for one in group.companions
    )
