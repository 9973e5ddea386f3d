"""The steps of a model runner: requests come and end, tokens are marked, counts are reported.

Independent of vLLM. A seam (`steersman.steering.vllm.worker.model_runner_v1` or `_v2`) attaches one
`Steps` to its runner.
"""

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from steersman.steering.plan.capture import CAPTURE_KEY
from steersman.steering.plan.dynamic import DRAFT, Companion, LastToken
from steersman.steering.plan.errors import NotComposed, PlanInvalid
from steersman.steering.plan.plan import PLAN_KEY, Plan
from steersman.steering.plan.receipt import StepReport
from steersman.steering.worker.composition import Composer, Guess
from steersman.steering.worker.finite import FiniteCheck, Watched
from steersman.steering.worker.gating.counting import Measured
from steersman.steering.worker.gating.uses import StepTokens
from steersman.steering.worker.hooks import ActiveSlots
from steersman.steering.worker.listeners.capture import CaptureTracker
from steersman.steering.worker.listeners.readouts import MISSED, ReadoutTracker, Values
from steersman.steering.worker.requests import SteeredRequests

REPORT_ATTRIBUTE = "steersman"
"""Attribute of ModelRunnerOutput that carries the StepReport to the scheduler's process."""


CLEAN_ATTRIBUTE = "steersman_clean"
"""Attribute of SchedulerOutput that carries the cache blocks to fill with zeros before the step."""

TOKENS_ATTRIBUTE = "steersman_tokens"
"""Attribute of SchedulerOutput that carries the `LastToken` of each dynamic answer and each
companion in the step."""


class Span(NamedTuple):
    """The part of a step's batch that belongs to one request."""

    request_id: str
    offset: int
    """Index in the batch of its first token."""
    tokens: int
    """How many of its tokens the step computes."""
    first: int
    """Token index, in the request, of the first of them."""


class Attached(NamedTuple):
    """What the worker uses of a model runner, apart from its steps."""

    positions: Tensor
    """[max tokens] int64: the token index of each token of the running step."""
    probe: Callable[[int], Tensor | None]
    """Runs n dummy tokens with the current marks; returns final hidden states [>= n, hidden]."""
    probe_tokens: int
    """The most tokens of a probe in which no token sees another."""


class Steps:
    """Passes the steps of one model runner on to steered requests, captures and companions.

    Assumption: in each step `finish_requests`, then `add_request` for each new request, then
    `sync_batch`, `compose` if there are companions, and `begin_step`, all before the forward pass
    is queued; `end_forward` after it; then `attach_report`. Guarantee: outside of `begin_step` ...
    `end_forward` no slot is active, and after `clear_marks` no token is marked.
    """

    def __init__(
        self,
        steered: SteeredRequests,
        captures: CaptureTracker,
        composer: Composer,
        active: ActiveSlots,
    ) -> None:
        self._steered = steered
        self._captures = captures
        self._composer = composer
        self._active = active
        self._readouts = ReadoutTracker(active, steered.tables.bank)
        self._ends: dict[str, LastToken] = {}
        """For each companion in the running step, the last token that it computes."""
        self._drafts: dict[str, int] = {}
        """By answer id, the draft of its next token that its companions compute in this step."""
        self._watched: list[Watched] = []
        """The parts of the running step that belong to steered requests or companions."""
        self._check: FiniteCheck | None = None

    @property
    def idle(self) -> bool:
        """Whether no request is steered or captured, no token is marked, and nothing is left to
        report."""
        steered = self._steered
        others = self._captures.live or self._composer.companions
        return not (steered.live or steered.failed or steered.active_slots or others)

    @property
    def tracked_request_ids(self) -> Collection[str]:
        """Ids of the requests whose spans `begin_step` needs."""
        steered, captured = self._steered.live.keys(), self._captures.live.keys()
        companions = self._composer.companions.keys()
        return steered | captured | companions if captured or companions else steered

    @property
    def has_listeners(self) -> bool:
        """Whether this step has listeners, which need the model's Python to run."""
        return bool(self._active.listeners or self._active.readers)

    def may_listen(
        self, scheduled: Iterable[str], arriving: Iterable[Mapping[str, object] | None]
    ) -> bool:
        """Whether the coming step may have listeners, before anything else is known of it:
        `scheduled` are its requests, `arriving` has the `extra_args` of those that are new."""
        return (
            bool(self._active.listeners)
            or any(_may_listen(extra_args) for extra_args in arriving if extra_args)
            or not self._captures.live.keys().isdisjoint(scheduled)
            or any(self._steered.reads_out(request_id) for request_id in scheduled)
        )

    def add_request(
        self,
        request_id: str,
        extra_args: Mapping[str, object] | None,
        prompt_tokens: int,
        prompt_ids: Sequence[int] | None = None,
    ) -> None:
        """Track a request that is new to the runner. `prompt_ids`: of its prompt's tokens, if the
        prompt has tokens. The request may be known here already: V2
        forgets a preempted request, and both runners get a request anew when its client adds to its
        prompt."""
        if not extra_args:
            return
        if CAPTURE_KEY in extra_args:
            self._captures.start(request_id, extra_args, prompt_tokens)
        companion = Companion.of(extra_args)
        if companion is not None:
            self._composer.add(request_id, companion)
        if PLAN_KEY not in extra_args or request_id in self._steered.failed:
            return
        if not self._resumed(request_id, extra_args, prompt_tokens):
            self._steered.finish([request_id])
            self._steered.start(request_id, extra_args, prompt_tokens, prompt_ids)

    def _resumed(
        self, request_id: str, extra_args: Mapping[str, object], prompt_tokens: int
    ) -> bool:
        known = self._steered.live.get(request_id)
        if known is None or known.prompt_tokens != prompt_tokens:
            return False
        try:
            return known.plan == Plan.of(extra_args)
        except PlanInvalid:
            return False

    def finish_requests(self, request_ids: Iterable[str]) -> None:
        """Forget requests that ended, however they ended. Do not call it for preempted requests."""
        if self._steered.live or self._steered.failed:
            self._steered.finish(request_ids)
        if self._captures.live:
            self._captures.finish(request_ids)
        if self._composer.companions:
            self._composer.remove(request_ids)

    def sync_batch(self, request_ids: Mapping[str, int]) -> None:
        """Match leases to the requests that are in the runner's batch now."""
        if self._steered.live:
            self._steered.sync_batch(request_ids)

    def begin_step(
        self, spans: Iterable[Span], tokens: int, inputs: StepTokens | None = None
    ) -> None:
        """Mark the steered tokens of a step with `tokens` tokens. `spans`: one for each request of
        `tracked_request_ids` that is in the step. `inputs`: the tokens themselves."""
        steered, captured = self._steered.live, self._captures.live
        companions = self._composer.companions
        spans = list(spans)
        self._watched = [
            Watched(span.request_id, span.offset, span.tokens)
            for span in spans
            if span.request_id in steered or span.request_id in companions
        ]
        if captured or companions:
            self._captures.step(span for span in spans if span.request_id in captured)
            spans = [span for span in spans if span.request_id in steered]
        for request_id in self._readouts.step(spans, steered):
            self._steered.mark_failed(request_id, MISSED)
            spans = [span for span in spans if span.request_id in steered]
        self._steered.step(spans, tokens, inputs)
        self._active.set(self._steered.active_slots)

    def compose(
        self, last_tokens: Mapping[str, LastToken], guess: Guess
    ) -> Mapping[str, LastToken]:
        """Compute the coefficients of the step's dynamic answers, and drafts for companions that
        need them.

        `last_tokens`: for each dynamic answer and each companion in the step, the last token that
        it computes. Returns those of the companions, with drafts filled in, which `guess` takes.
        The runner must compute these tokens in place of those that it sampled for companions.
        """
        self._ends, self._drafts = {}, {}
        for request_id, last in last_tokens.items():
            request = self._steered.live.get(request_id)
            if request is None or request.plan.dynamic is None:
                continue
            # An earlier part of a prompt, or a token computed before a preemption, needs none.
            if last.position - request.prompt_tokens + 1 >= len(request.choices):
                if not request.plan.dynamic.renews(len(request.choices)):
                    request.choices.append(request.choices[-1])
                    continue
                try:
                    choice = self._composer.choose(request_id, request.plan, last)
                    request.choices.append(choice)
                except NotComposed as error:
                    self._steered.mark_failed(request_id, str(error))
        for request_id, last in last_tokens.items():
            companion = self._composer.companions.get(request_id)
            if companion is not None:
                drafts = last.token == DRAFT
                token = self._draft(companion.answer, last_tokens, guess) if drafts else last.token
                self._ends[request_id] = LastToken(last.position, token)
        return self._ends

    def _draft(self, answer: str, last_tokens: Mapping[str, LastToken], guess: Guess) -> int:
        if answer not in self._drafts:
            request, last = self._steered.live.get(answer), last_tokens.get(answer)
            if request is None or last is None:
                return 0  # It failed or was preempted in the same step: any token is right.
            choice = request.choices[last.position - request.prompt_tokens + 1]
            draft = self._composer.draft(answer, request.plan, last, choice, guess)
            self._drafts[answer] = draft
        return self._drafts[answer]

    @property
    def companions(self) -> Collection[str]:
        """Ids of the companions: their logits are needed, and their tokens come from their
        answers."""
        return self._composer.companions

    def record_logits(self, logits: Tensor, index_of: Mapping[str, int]) -> None:
        """Keep the rows of the companions in the running step's next-token `logits` [requests,
        vocabulary]. `index_of`: the row of each request."""
        for request_id, last in self._ends.items():
            self._composer.record_logits(request_id, last, logits[index_of[request_id]])
        self._ends = {}

    def check_finite(
        self, hidden: Tensor, index_of: Mapping[str, int], logits: Tensor | None
    ) -> None:
        """Queue the check of the running step's steered requests. Arguments as for
        `steersman.steering.worker.finite.FiniteCheck`. Does nothing if no request of the step is
        steered."""
        if self._watched:
            self._check = FiniteCheck(self._watched, hidden, index_of, logits)

    def end_forward(self) -> None:
        """Call when the forward pass is queued."""
        self._active.set(frozenset())
        self._captures.end_forward()
        self._readouts.end_forward()

    def clear_marks(self) -> None:
        """Unmark the tokens of the last step. Call before a forward pass that belongs to no
        request."""
        if self._steered.active_slots:
            self._steered.step((), 0)
            self._steered.take_report()
            self.end_forward()

    def attach_report(self, output: Any, holder: str) -> None:
        """Put the step's report on a ModelRunnerOutput. An asynchronous output has the
        ModelRunnerOutput in its attribute `holder`."""
        if output is not None:
            report = self._steered.take_report()
            if report is not None:
                report.captured = self._captures.take()
                report.drafts, self._drafts = self._drafts, {}
                setattr(getattr(output, holder, output), REPORT_ATTRIBUTE, report)
                read = self._readouts.take(report.failed)
                gates = self._steered.tables.gates.take()
                if self._check is not None or read is not None or gates is not None:
                    _report_results(output, report, self._check, read, gates)
        self._check = None


def _may_listen(extra_args: Mapping[str, object]) -> bool:
    """Whether a request with these `extra_args` may be captured or read. A plan may be long, so it
    is not parsed for this."""
    return CAPTURE_KEY in extra_args or '"readouts"' in str(extra_args.get(PLAN_KEY, ""))


def _report_results(
    output: Any,
    report: StepReport,
    check: FiniteCheck | None,
    read: Values | None,
    gates: Measured | None,
) -> None:
    """Put the requests that `check` finds to be not finite, what was `read`, and what `gates`
    measured, on the report: at once if the step is over, else when vLLM waits for the step's
    output."""

    def complete() -> None:
        if check is not None:
            report.ill = check.ill()
        if read is not None:
            report.read = read()
        if gates is not None:
            for request_id, steps in gates.read().items():
                if request_id in report.counts:  # Else it failed in this step.
                    report.gates[request_id] = tuple(steps.values())

    if not hasattr(output, "get_output"):
        complete()
        return
    get_output = output.get_output

    @functools.wraps(get_output)
    def get_completed() -> Any:
        result = get_output()
        complete()
        return result

    output.get_output = get_completed
