"""The steps of a model runner: requests come, requests go, tokens are marked, counts are reported.

Independent of vLLM. A seam (`steersman.steering.vllm.worker.model_runner_v1` or `_v2`) attaches one
`Steps` to its runner.
"""

import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from steersman.steering.plan.capture import CAPTURE_KEY
from steersman.steering.plan.dynamic import DRAFT, Companion, LastToken
from steersman.steering.plan.errors import NotComposed, PlanInvalid
from steersman.steering.plan.plan import PLAN_KEY, Plan
from steersman.steering.plan.receipt import StepReport
from steersman.steering.worker.capture import CaptureTracker
from steersman.steering.worker.composition import Composer
from steersman.steering.worker.finite import FiniteCheck, Watched
from steersman.steering.worker.hooks import ActiveSlots
from steersman.steering.worker.requests import SteeredRequests

REPORT_ATTRIBUTE = "steersman"
"""Attribute of ModelRunnerOutput that carries the StepReport to the scheduler's process."""


CLEAN_ATTRIBUTE = "steersman_clean"
"""Attribute of SchedulerOutput that carries the cache blocks to fill with zeros before the step."""

TOKENS_ATTRIBUTE = "steersman_tokens"
"""Attribute of SchedulerOutput that carries the `LastToken` of each dynamic answer and each
companion in the step."""


class Span(NamedTuple):
    """One request's part of a step's batch."""

    request_id: str
    offset: int
    """Place of its first token in the batch."""
    tokens: int
    """How many tokens of it the step computes."""
    first: int
    """Index in the request of the first of them."""


class Attached(NamedTuple):
    """What the worker uses of a model runner besides its steps."""

    positions: Tensor
    """[max tokens] int64: the token index of each token of the running step."""
    probe: Callable[[int], Tensor | None]
    """Runs n dummy tokens as they are marked; their final hidden states [>= n, hidden]."""
    probe_tokens: int
    """The most tokens that a probe may have so that none sees another."""


class Steps:
    """One runner's steps.

    Assumption: in each step `finish_requests`, then `add_request` for each new request, then
    `sync_batch`, `compose` where there are companions, and `begin_step`, all before the forward
    pass is queued; `end_forward` after it; then `attach_report`.
    Guarantee: outside of `begin_step` ... `end_forward` no slot is active, and after `clear_marks`
    no token is marked.
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
        self._ends: dict[str, LastToken] = {}
        """Of each companion in the running step, the last token that it computes."""
        self._drafts: dict[str, int] = {}
        """By answer, what its companions have for its next token in the running step."""
        self._watched: list[Watched] = []
        """The parts of the running step that steering has shaped."""
        self._check: FiniteCheck | None = None

    @property
    def idle(self) -> bool:
        """Whether no request is steered or captured, and nothing is left to report or to unmark."""
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
        """Whether this step has listeners, for which the model's Python must run."""
        return bool(self._active.listeners)

    def add_request(
        self, request_id: str, extra_args: Mapping[str, object] | None, prompt_tokens: int
    ) -> None:
        """Track a request that is new to the runner. It may have been there before: V2 forgets a
        preempted request, and both runners get one again when its client adds to its prompt."""
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
            self._steered.start(request_id, extra_args, prompt_tokens)

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
        """Forget requests that ended, however they ended. Not for those that were preempted."""
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

    def begin_step(self, spans: Iterable[Span], tokens: int) -> None:
        """Mark the steered tokens of a step of `tokens` tokens; `spans` has one of each request of
        `tracked_request_ids` that is in the step."""
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
        self._steered.step(spans, tokens)
        self._active.set(self._steered.active_slots)

    def compose(self, last_tokens: Mapping[str, LastToken]) -> Mapping[str, LastToken]:
        """Compute the coefficients of the dynamic answers in the coming step, and drafts for the
        companions that run ahead of theirs. `last_tokens`: of the answers and companions in the
        step, in `begin_step`'s terms the last token of each span. Returns those of the companions,
        with which the runner must go on: it has sampled others for them."""
        self._ends, self._drafts = {}, {}
        for request_id, last in last_tokens.items():
            request = self._steered.live.get(request_id)
            if request is None or request.plan.dynamic is None:
                continue
            # A prompt's earlier part, or what was computed before a preemption, needs none.
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
                token = self._draft(companion.answer, last_tokens) if drafts else last.token
                self._ends[request_id] = LastToken(last.position, token)
        return self._ends

    def _draft(self, answer: str, last_tokens: Mapping[str, LastToken]) -> int:
        if answer not in self._drafts:
            request, last = self._steered.live.get(answer), last_tokens.get(answer)
            if request is None or last is None:
                return 0  # It failed, or its blocks were taken in the same step. Any token will do.
            choice = request.choices[last.position - request.prompt_tokens + 1]
            self._drafts[answer] = self._composer.draft(answer, request.plan, last, choice)
        return self._drafts[answer]

    @property
    def companions(self) -> Collection[str]:
        """Requests whose logits are needed, and which go on with the tokens of another."""
        return self._composer.companions

    def record_logits(self, logits: Tensor, index_of: Mapping[str, int]) -> None:
        """Keep the companions' part of the running step's next-token logits [requests,
        vocabulary]; `index_of`: index of each request in them."""
        for request_id, last in self._ends.items():
            self._composer.record_logits(request_id, last, logits[index_of[request_id]])
        self._ends = {}

    def check_finite(
        self, hidden: Tensor, index_of: Mapping[str, int], logits: Tensor | None
    ) -> None:
        """Check the numbers of the running step's steered requests; arguments as of
        `steersman.steering.worker.finite.FiniteCheck`. Does nothing where no request is steered."""
        if self._watched:
            self._check = FiniteCheck(self._watched, hidden, index_of, logits)

    def end_forward(self) -> None:
        """Call when the forward pass is queued."""
        self._active.set(frozenset())
        self._captures.end_forward()

    def clear_marks(self) -> None:
        """Unmark the last step, before a forward pass that belongs to no request."""
        if self._steered.active_slots:
            self._steered.step((), 0)
            self._steered.take_report()
            self.end_forward()

    def attach_report(self, output: Any, holder: str) -> None:
        """Put the step's report on a ModelRunnerOutput, or on the one that an asynchronous output
        has in its attribute `holder`."""
        if output is not None:
            report = self._steered.take_report()
            if report is not None:
                report.captured = self._captures.take()
                report.drafts, self._drafts = self._drafts, {}
                setattr(getattr(output, holder, output), REPORT_ATTRIBUTE, report)
                if self._check is not None:
                    _report_ill(output, report, self._check)
        self._check = None


def _report_ill(output: Any, report: StepReport, check: FiniteCheck) -> None:
    """Put the requests that `look` finds ill on the report: at once where the step is over, else
    when vLLM waits for the step's output."""
    if not hasattr(output, "get_output"):
        report.ill = check.ill()
        return
    get_output = output.get_output

    @functools.wraps(get_output)
    def get_with_ill() -> Any:
        result = get_output()
        report.ill = check.ill()
        return result

    output.get_output = get_with_ill
