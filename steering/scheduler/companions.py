"""Dynamic requests in the scheduler: an answer and its companions.

An answer that is composed dynamically needs the next-token distributions of k + 1 other sequences
over its own tokens: one unsteered, and one for each of its k vectors alone. Each of them is a
companion: a request of the scheduler like any other, with its own blocks and a prefix that the
cache shares. An answer and its companions are a group, which is kept together like this:

- The token sampled for a companion is dropped. It has then computed all its tokens, and vLLM skips
  such a request until it has one more: the answer's token, appended as soon as it is known.
- The answer is held (`Request.next_decode_eligible_step`) until its companions have computed the
  tokens that it has. The worker finds the coefficients from their logits.
- In the step in which the answer computes its latest token, its companions compute one token more:
  a draft of the answer's next token, which the worker makes and reports. If the answer's next token
  is the draft, its companions have computed it already. Otherwise they go back by one token, and
  the answer is held while they compute the right one.

So a token takes one step, or two after a wrong draft. Other requests run in both steps. A draft
affects when a token is computed, never which token it is. A companion computes a draft without
having it as a token (`Request.num_output_placeholders`, which vLLM uses for tokens that
asynchronous scheduling does not know yet), so no cache block has a key with a draft in it.
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
"""(answer, its plan, n) -> the engine's request for its n-th companion; 0 is the unsteered one."""


@dataclass(eq=False)
class Group:
    """An answer and its companions, as requests of vLLM."""

    answer: Any
    companions: tuple[Any, ...]
    every: int
    """Coefficients are computed for one token in this many, and held for the others."""
    drafts: bool = True
    """Whether companions may compute drafts."""
    draft: int | None = None
    """The draft that they computed, once the worker has reported it."""
    pace: Pace = field(default_factory=Pace)

    @property
    def members(self) -> tuple[Any, ...]:
        """The companions and then the answer, in the order in which they start."""
        return (*self.companions, self.answer)


class CompanionScheduler:
    """The dynamic requests of one scheduler, in order of arrival.

    Guarantees: at most `max_running` groups run at once. Groups start one at a time, member by
    member, so two groups that each have half of what they need never wait for each other.
    Companions end with their answer, however it ends.
    """

    def __init__(self, scheduler: Any, max_running: int, make: MakeCompanion) -> None:
        self._scheduler = scheduler
        self._make = make
        self._max_running = max_running
        self._groups: dict[str, Group] = {}
        self._answer: dict[str, str] = {}
        """Id of the answer of each companion."""
        self.infeasible = set[str]()
        """Answers that do not fit even alone, although the front end's check let them pass."""
        self._exclusive_group: Group | None = None
        """The only group that may start, until its answer has one more token."""
        self._exclusive_until = 0
        self._admissible: list[Group] = []
        """Groups that may run in the coming step."""
        # A wrong draft cannot be removed from the state of a recurrent layer.
        self._drafts = not scheduler.has_mamba_layers
        self._idle = False
        """Whether the last step computed nothing, although nothing prevented it."""

    def __len__(self) -> int:
        """Number of companions."""
        return len(self._answer)

    def add(self, answer: Any, plan: Plan) -> tuple[Any, ...]:
        """Track a new dynamic request. Returns its companions; the caller adds them to the
        scheduler."""
        count = len(plan.vectors) + 1
        companions = tuple(self._make(answer, plan, stream) for stream in range(count))
        every = plan.dynamic.every if plan.dynamic is not None else 1
        self._groups[answer.request_id] = Group(answer, companions, every)
        self._answer.update((c.request_id, answer.request_id) for c in companions)
        return companions

    def answer_of(self, request_id: str) -> str:
        """For a companion, the id of its answer; for any other request, its own id."""
        return self._answer.get(request_id, request_id)

    def is_companion(self, request_id: str) -> bool:
        """Whether this request is a companion, which has no client of its own."""
        return request_id in self._answer

    def is_admissible(self, request: Any) -> bool:
        """Whether the rules for groups let a waiting request start."""
        group = self._groups.get(self.answer_of(request.request_id))
        if self._exclusive_group is not None and group is not self._exclusive_group:
            return False
        if group is None:
            return True
        if group is not self._entering():
            return False
        if request is group.answer:
            return _caught_up(group)
        # The prompt's blocks are computed once, by the first companion; the others share them.
        first = group.companions[0]
        cached = self._scheduler.cache_config.enable_prefix_caching
        shares = cached and request.num_prompt_tokens > self._scheduler.block_size
        return request is first or not shares or first.num_computed_tokens >= first.num_tokens

    def before_step(self) -> None:
        """Hold the answers whose companions have not computed their latest token. Let the
        companions of the other answers compute a draft where they can."""
        for group in self._groups.values():
            # Under asynchronous scheduling the next token is known only when the step is over.
            in_flight = any(member.num_in_flight_tokens for member in group.members)
            for member in group.members:
                # Others may compute what a speculator proposes; an answer computes token by token.
                member.spec_token_ids = []
            for companion in group.companions:
                companion.next_decode_eligible_step = FOREVER if in_flight else 0
                if _is_behind(companion):
                    self._preempt(companion)
            caught_up = _caught_up(group) and not in_flight
            # An answer whose coefficients are held needs no logits of the latest token.
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
        if self._idle and not self._end_pause():
            self._make_way()

    def _may_draft(self, group: Group) -> bool:
        """Whether the companions of a group that has caught up may compute a draft in the coming
        step."""
        answer, scheduler = group.answer, self._scheduler
        tokens = answer.num_tokens
        most = min(scheduler.max_model_len, answer.num_prompt_tokens + answer.max_tokens)
        if (
            not (self._drafts and group.drafts and _runs(answer))
            or answer.num_computed_tokens != tokens - 1
            or any(map(_is_ahead, group.companions))
            # The last token of an answer is not computed, so a draft of it is useless.
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
        """Process a step's `output`, vLLM's SchedulerOutput. Returns the last token that each
        answer and each companion in the step computes, by request id. `throttled`: the step was
        not allowed to compute prompts."""
        free = not throttled and self._scheduler.pause_state.name == "UNPAUSED"
        lost = output.preempted_req_ids  # Preempted requests made room for others.
        under_way = any(r.num_in_flight_tokens for r in self._scheduler.requests.values())
        self._idle = free and not lost and not under_way
        found = dict[str, LastToken]()
        cached = output.scheduled_cached_reqs
        for n, request_id in enumerate(cached.req_ids):
            # The runner does not have a draft as a token, and is not sent one.
            cached.num_output_tokens[n] -= self.is_ahead(request_id)
        for group in self._groups.values():
            for companion in group.companions:
                # The tokens that are sampled for it are dropped, so none is expected.
                companion.num_output_placeholders = int(_is_ahead(companion))
            there = [m for m in group.members if m.request_id in output.num_scheduled_tokens]
            found.update((member.request_id, _last_token(member)) for member in there)
            if there and group.answer.num_output_tokens:
                group.pace = group.pace._replace(steps=group.pace.steps + 1)
        return found

    def drop_samples(self, runner_output: Any) -> None:
        """Remove the tokens sampled for companions from a step's output."""
        rows, sampled = runner_output.req_id_to_index, runner_output.sampled_token_ids
        for companion in self._answer if sampled else ():
            if companion in rows:
                sampled[rows[companion]] = []

    def append_answer_tokens(self, drafts: Mapping[str, int]) -> dict[str, Pace]:
        """Append the new tokens of each answer to its companions. `drafts`: by answer id, the token
        that its companions computed ahead of it. Returns the pace of each answer."""
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
        """Ids of companions whose answer has ended. They are no longer tracked after this call."""
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
        """Whether this request is a running companion that has computed a draft."""
        request = self._scheduler.requests.get(request_id)
        return request_id in self._answer and _runs(request) and _is_ahead(request)

    def stop_drafting(self, request_id: str) -> None:
        """Make no more drafts for the group of this companion."""
        self._groups[self._answer[request_id]].drafts = False

    def members_of(self, request_id: str) -> tuple[Any, ...]:
        """The group of an answer, in the order in which its members start; empty for any other
        request."""
        group = self._groups.get(request_id)
        return group.members if group is not None else ()

    def with_companions(self, request_ids: set[str]) -> set[str]:
        """These ids, and those of the companions of every answer among them."""
        groups = [self._groups[name] for name in request_ids if name in self._groups]
        return request_ids | {c.request_id for group in groups for c in group.companions}

    def _entering(self) -> Group | None:
        """The first group that may run, has its bank rows, and has a member that does not run yet.
        A group without bank rows is passed over: it must not keep out the requests that hold
        them."""
        admission = self._scheduler.steering_admission
        return next(
            (
                g
                for g in self._admissible
                if not _whole(g) and admission.is_admitted(g.answer.request_id)
            ),
            None,
        )

    def _end_pause(self) -> bool:
        """End vLLM's pause between prompts (`--prefill-schedule-interval`), which is counted in
        steps that compute something: while answers are held, no step does. Returns whether the
        pause was on."""
        scheduler = self._scheduler
        # Before vLLM 0.33 there is one under data parallel alone, counted in all steps.
        interval = getattr(scheduler, "local_prefill_interval", 1)
        if interval == 1:
            return False
        began = scheduler.num_executed_steps + 1 - interval
        pausing = scheduler.last_prefill_step > began
        scheduler.last_prefill_step = min(began, scheduler.last_prefill_step)
        return bool(pausing)

    def _make_way(self) -> None:
        """Make room for the first group. Call after a step that computed nothing although the group
        could run.

        Until that group has one more token no other request starts, as one before it in the queue
        could take the room. Other groups that run in part give back what they have, the last group
        first.
        """
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
        """The groups in the order in which vLLM serves them, those with bank rows before those
        without, because the latter may wait for the former."""
        groups, admission = list(self._groups.values()), self._scheduler.steering_admission
        if self._scheduler.policy.value == "priority":
            groups.sort(key=lambda group: (group.answer.priority, group.answer.arrival_time))
        return sorted(groups, key=lambda group: not admission.is_admitted(group.answer.request_id))


def _runs(request: Any) -> bool:
    return bool(request.status.name == "RUNNING")


def _whole(group: Group) -> bool:
    """Whether all members of a group run."""
    return all(map(_runs, group.members))


def _waits(request: Any) -> bool:
    """Whether a request waits for nothing but its turn."""
    return request.status.name in ("WAITING", "PREEMPTED")


def _caught_up(group: Group, lag: int = 0) -> bool:
    """Whether all companions have computed all tokens of the answer, except for the last `lag`."""
    tokens = group.answer.num_tokens
    return all(
        _runs(one) and one.num_computed_tokens >= tokens - lag and one.num_tokens == tokens
        for one in group.companions
    )


def _is_ahead(companion: Any) -> bool:
    """Whether a companion has computed a token that it does not have."""
    return bool(companion.num_computed_tokens > companion.num_tokens)


def _is_behind(companion: Any) -> bool:
    """Whether a running companion has two or more of its answer's tokens to compute. A runner has
    its own sampled tokens in their place; only a request that was preempted is sent all its
    tokens."""
    computed = companion.num_computed_tokens
    behind = companion.num_prompt_tokens <= computed < companion.num_tokens - 1
    return behind and _runs(companion) and not companion.is_prefill_chunk


def _last_token(request: Any) -> LastToken:
    """The last token that a request computes in the scheduled step."""
    position = request.num_computed_tokens - 1
    tokens = request.all_token_ids
    return LastToken(position, tokens[position] if position < len(tokens) else DRAFT)
