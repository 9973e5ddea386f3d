"""Dynamic requests in the scheduler: an answer and the companions beside it.

An answer that is composed dynamically needs the next-token distributions of k + 1 other histories
over its own tokens: unsteered, and each property alone. Each is a request of the scheduler like any
other, a companion, with blocks of its own and a prefix that the cache shares. What makes them
streams of one answer:

- A companion's sampled token is dropped. It has computed all its tokens then, and vLLM passes over
  such a request until it has one more: the answer's, which is appended when it is known.
- The answer is held (`Request.next_decode_eligible_step`) until its companions have computed the
  tokens that it has; the coefficients follow from their logits, in the worker.
- In the step in which the answer computes its latest token, its companions run ahead of it by one,
  on a draft of the token that comes, which the worker makes and reports. If the answer's token is
  that one, its companions have computed it. Else they go back by one token, and the answer is held
  while they compute it.

So a token takes one step, or two after a wrong draft; all other requests run in both. The draft
decides when something is computed, never what. It is a token that a companion computes and does not
have (`Request.num_output_placeholders`, as for what asynchronous scheduling does not know yet), so
that no block is keyed by it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from steersman.steering.plan.dynamic import DRAFT, LastToken
from steersman.steering.plan.plan import Plan
from steersman.steering.plan.receipt import Pace

FOREVER = 2**62
"""No step of the scheduler has this number."""


MakeCompanion = Callable[[Any, Plan, int], Any]
"""(answer, its plan, stream) -> the engine's request of that companion."""


@dataclass(eq=False)
class Group:
    """An answer and its companions, vLLM's requests."""

    answer: Any
    companions: tuple[Any, ...]
    every: int
    """Its coefficients are found at the first of so many of its tokens."""
    drafts: bool = True
    """Whether companions may run ahead."""
    draft: int | None = None
    """The token with which they did, once the worker has reported it."""
    pace: Pace = field(default_factory=Pace)

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
        # What a recurrent layer has taken in of a wrong draft cannot be overwritten.
        self._drafts = not scheduler.has_mamba_layers
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
        every = plan.dynamic.every if plan.dynamic is not None else 1
        self._groups[answer.request_id] = Group(answer, companions, every)
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
        """Hold the answers whose companions have not computed their latest token, and have the
        companions of others run ahead where they can."""
        for group in self._groups.values():
            # Under asynchronous scheduling: which token comes is known when the step is over.
            in_flight = any(member.num_in_flight_tokens for member in group.members)
            for companion in group.companions:
                companion.next_decode_eligible_step = FOREVER if in_flight else 0
                if _is_behind(companion):
                    self._preempt(companion)
            caught_up = _caught_up(group) and not in_flight
            # Where its coefficients are held, it needs no logits of the latest token.
            held = group.answer.num_output_tokens % group.every != 0 and not in_flight
            ready = caught_up or (held and _caught_up(group, lag=1))
            group.answer.next_decode_eligible_step = 0 if ready else FOREVER
            if caught_up and self._may_draft(group):
                for companion in group.companions:
                    companion.num_output_placeholders = 1
        if (
            self._exclusive_group is not None
            and self._exclusive_group.answer.num_tokens > self._exclusive_until
        ):
            self._exclusive_group = None
        self._admissible = self._in_order()[: self._max_running]
        if self._idle:
            self._make_way()

    def _may_draft(self, group: Group) -> bool:
        """Whether the companions of a group that has caught up may run ahead in the coming step."""
        answer, scheduler = group.answer, self._scheduler
        tokens = answer.num_tokens
        most = min(scheduler.max_model_len, answer.num_prompt_tokens + answer.max_tokens)
        if (
            not (self._drafts and group.drafts and _runs(answer))
            or answer.num_computed_tokens != tokens - 1
            or any(map(_is_ahead, group.companions))
            # Nobody computes the token that comes if it is the last.
            or tokens + 1 >= most
        ):
            return False
        # No request should lose its blocks to a draft: each may need one more in this step.
        kinds = scheduler.kv_cache_config.kv_cache_groups
        if all(tokens % kind.kv_cache_spec.block_size for kind in kinds):
            return True
        free = scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        return bool(free >= len(scheduler.running) * len(kinds))

    def after_step(self, output: Any, *, throttled: bool) -> dict[str, LastToken]:
        """Take note of a step, vLLM's SchedulerOutput; `throttled`: no prompt was to be computed in
        it. For each answer and each companion in it, the last token that it computes."""
        free = not throttled and self._scheduler.pause_state.name == "UNPAUSED"
        lost = output.preempted_req_ids  # They had room for others.
        under_way = any(r.num_in_flight_tokens for r in self._scheduler.requests.values())
        self._idle = free and not lost and not under_way
        found = dict[str, LastToken]()
        cached = output.scheduled_cached_reqs
        for n, request_id in enumerate(cached.req_ids):
            # A draft is not a token that the runner could have, or be sent.
            cached.num_output_tokens[n] -= self.is_ahead(request_id)
        for group in self._groups.values():
            for companion in group.companions:
                # Its own tokens are not awaited.
                companion.num_output_placeholders = int(_is_ahead(companion))
            there = [m for m in group.members if m.request_id in output.num_scheduled_tokens]
            found.update((member.request_id, _last_token(member)) for member in there)
            if there and group.answer.num_output_tokens:
                group.pace = group.pace._replace(steps=group.pace.steps + 1)
        return found

    def drop_samples(self, runner_output: Any) -> None:
        """Take off a step's output what was sampled for companions."""
        rows, sampled = runner_output.req_id_to_index, runner_output.sampled_token_ids
        for companion in self._answer if sampled else ():
            if companion in rows:
                sampled[rows[companion]] = []

    def append_answer_tokens(self, drafts: Mapping[str, int]) -> dict[str, Pace]:
        """Give companions the token that their answer got. `drafts`: by answer, with which one they
        ran ahead of it in the step. Returns the pace of each answer."""
        for name, group in self._groups.items():
            group.draft = drafts.get(name, group.draft)
            steps, drafted, kept = group.pace
            group.pace = Pace(steps, drafted + (name in drafts), kept)
            tokens = group.answer.all_token_ids[group.companions[0].num_tokens :]
            if not tokens:
                continue
            right, group.draft = tokens[0] == group.draft, None
            group.pace = group.pace._replace(kept=kept + right)
            for companion in group.companions:
                if _is_ahead(companion) and not right:
                    companion.num_computed_tokens -= 1
                companion.num_output_placeholders = 0
                for token in tokens:
                    companion.append_output_token_ids(token)
        return {name: group.pace for name, group in self._groups.items()}

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

    def is_ahead(self, request_id: str) -> bool:
        """Whether this is a companion that has computed a draft."""
        request = self._scheduler.requests.get(request_id)
        return request_id in self._answer and _runs(request) and _is_ahead(request)

    def stop_drafting(self, request_id: str) -> None:
        """Have no companion of this one's answer run ahead from now on."""
        self._groups[self._answer[request_id]].drafts = False

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
        entering = self._entering()
        if entering is None or not any(
            _waits(m) and self.is_admissible(m) for m in entering.members
        ):
            return
        others = [g for g in self._in_order() if g is not entering and any(map(_runs, g.members))]
        for request in reversed(others[-1].members if others else ()):
            if _runs(request):
                self._preempt(request)
        if self._exclusive_group is entering and not others:
            self.infeasible.add(entering.answer.request_id)
        self._exclusive_group, self._exclusive_until = entering, entering.answer.num_tokens

    def _preempt(self, request: Any) -> None:
        self._scheduler.running.remove(request)
        self._scheduler._preempt_request(request, time.monotonic())

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


def _caught_up(group: Group, lag: int = 0) -> bool:
    """Whether all companions have computed all that the answer has, but for the last `lag`."""
    tokens = group.answer.num_tokens
    return all(
        _runs(one) and one.num_computed_tokens >= tokens - lag and one.num_tokens == tokens
        for one in group.companions
    )


def _is_ahead(companion: Any) -> bool:
    """Whether a companion has computed a token that it does not have."""
    return bool(companion.num_computed_tokens > companion.num_tokens)


def _is_behind(companion: Any) -> bool:
    """Whether a companion that runs has two of its answer's tokens to compute, which a runner would
    take for its own. One that was preempted is given its tokens."""
    computed = companion.num_computed_tokens
    behind = companion.num_prompt_tokens <= computed < companion.num_tokens - 1
    return behind and _runs(companion) and not companion.is_prefill_chunk


def _last_token(request: Any) -> LastToken:
    """The last token that a request computes in the step that is scheduled."""
    position = request.num_computed_tokens - 1
    tokens = request.all_token_ids
    return LastToken(position, tokens[position] if position < len(tokens) else DRAFT)
