"""A model runner that hashes instead of computing, for vLLM's scheduler without an engine.

The state behind a token is a hash of all tokens up to it and of what is added at each, read from
and written to cache blocks as attention would; the next token follows from the state. So a block
that holds something else, a token that the worker does not know, and a choice made on other
histories all change what is answered.

A state may be no number (`NAN`): then so are all behind it, and whoever has a block with one in it,
though behind the end of its own tokens, would answer nothing.
"""

import functools
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from types import SimpleNamespace
from typing import Any, NamedTuple

from steersman.steering.plan import Plan
from steersman.steering.plan.capture import Capture
from steersman.steering.plan.dynamic import DRAFT, Companion, LastToken
from steersman.steering.plan.receipt import StepReport
from steersman.steering.vllm.worker import model_runner_v1, model_runner_v2
from steersman.steering.worker.batch import CLEAN_ATTRIBUTE, REPORT_ATTRIBUTE, TOKENS_ATTRIBUTE
from tests.support.steering.make import added_by, digest

BLOCK = 4
"""Tokens of a cache block."""
VOCABULARY = 64
NAN = -1
"""A state that is not finite; no hash is this."""
OVERFLOWING = digest(999_999)
"""A vector after which no state is finite."""


class Ask(NamedTuple):
    """What a client asks."""

    name: str
    prompt: tuple[int, ...]
    most: int
    """`max_tokens`."""
    plan: Plan | None = None
    stops: frozenset[int] = frozenset()
    priority: int = 0
    salt: str | None = None
    capture: Capture | None = None

    @property
    def streams(self) -> tuple[Plan | None, ...]:
        """The plans of its companions: none, and each vector alone."""
        if self.plan is None or self.plan.dynamic is None:
            return ()
        of = self.plan.dynamic.start_of
        alone = enumerate(self.plan.vectors)
        return None, *(Plan((replace(v, coefficient=of(n)),)) for n, v in alone)

    def blocks(self, longest: int = 1024) -> int:
        """Cache blocks that it needs, its companions included: its last token is not computed."""
        tokens = min(len(self.prompt) + self.most, longest) - 1
        return (len(self.streams) + 1) * -(-tokens // BLOCK)


def companion(ask: Ask, stream: int) -> str:
    """Id of one of its companions."""
    return f"{ask.name}-stream{stream}"


def mix(before: int, token: int, added: int) -> int:
    """State behind one more token."""
    return NAN if NAN in (before, added) else hash((before, token, added))


def sampled(state: int) -> int:
    return state % VOCABULARY


@functools.lru_cache(maxsize=100_000)
def added(plan: Plan | None, token: int, prompt_tokens: int) -> int:
    """What a plan that is not dynamic adds at a token."""
    found = []
    for vector in plan.vectors if plan else ():
        how = added_by(vector, token, prompt_tokens)
        if how is not None and how[1]:
            if vector.digest == OVERFLOWING:
                return NAN
            found += [(site, layer, vector.digest, *how) for site, layer in vector.terms]
    return zlib.crc32(repr(sorted(found)).encode()) if found else 0


def chosen(states: Sequence[int]) -> int:
    """What is added at a token of a dynamic answer, whose companions are in these states."""
    return hash(tuple(states))


def answer_to(ask: Ask, longest: int) -> tuple[int, ...]:
    """The tokens of the answer, had the request been alone and nothing ever taken from it."""
    tokens, state, states, held = list(ask.prompt), 0, [0] * len(ask.streams), 0
    prompt = len(ask.prompt)
    for i in count():
        states = [
            mix(before, tokens[i], added(plan, i, prompt))
            for before, plan in zip(states, ask.streams, strict=True)
        ]
        if states:
            assert ask.plan is not None
            assert ask.plan.dynamic is not None
            token = i - prompt + 1
            if token >= 0 and token % ask.plan.dynamic.every == 0:
                held = chosen(states)
            extra = held if token >= 0 else 0
        else:
            extra = added(ask.plan, i, prompt)
        state = mix(state, tokens[i], extra)
        if i < prompt - 1:
            continue
        tokens.append(sampled(state))
        ended = len(tokens) - prompt >= ask.most or len(tokens) >= longest
        if ended or tokens[-1] in ask.stops:
            return tuple(tokens[prompt:])
    raise AssertionError


@dataclass
class Live:
    """One request, as a worker knows it."""

    prompt: list[int]
    plan: Plan | None
    blocks: list[int]
    first: int
    output_token_ids: list[int] = field(default_factory=list)

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt)


Draft = Callable[[int], int]
"""The answer's next token -> the one with which its companions run ahead."""


def right(token: int) -> int:
    """A draft that is always the answer's token."""
    return token


def wrong(token: int) -> int:
    """One that never is."""
    return (token + 1) % VOCABULARY


class Behind(NamedTuple):
    """The last that a companion computed."""

    position: int
    state: int
    tokens: tuple[int, ...]


class Worker:
    """What both model runners do: compute, listen, choose, sample."""

    def __init__(self) -> None:
        self.requests: dict[str, Live] = {}
        self.companions: dict[str, Companion] = {}
        self.streams: dict[str, dict[int, tuple[Behind, ...]]] = {}
        """By answer and stream, the latest and the one before it."""
        self.draft: Draft = right
        self.drafts = Counter[bool]()
        """How many were made, by whether they were right."""
        self.choices: dict[str, list[int]] = {}
        self.fail: dict[str, str] = {}
        """Who shall be reported as impossible to steer, when it runs next."""
        self.cleaned = 0
        """Blocks that were filled with zeros."""
        self._cache: dict[tuple[int, int], int] = {}

    def run(self, output: Any) -> Any:
        """Execute one SchedulerOutput."""
        from vllm.v1.outputs import ModelRunnerOutput

        for block in getattr(output, CLEAN_ATTRIBUTE, ()):
            self.cleaned += 1
            for slot in range(BLOCK):
                self._cache.pop((block, slot), None)
        self.forget(output.finished_req_ids)
        self.take(output)
        spans = {
            name: (self.requests[name].first, self.requests[name].first + tokens)
            for name, tokens in output.num_scheduled_tokens.items()
        }
        last_tokens: dict[str, LastToken] = getattr(output, TOKENS_ATTRIBUTE, {})
        known = {name: at for name, at in last_tokens.items() if name in self.companions}
        ahead = {name for name, at in known.items() if at.token == DRAFT}
        self.write({name: at for name, at in known.items() if name not in ahead})
        for name, (_, stop) in spans.items():
            self._choose(name, stop - 1)
        # Who finds a block in the cache may be in one step with who computes it. Drafts are made
        # of what is sampled here, so that they can be right.
        in_order = sorted(spans, key=lambda name: (name in ahead, spans[name]))
        states, drafts = dict[str, int](), dict[str, int]()
        for name in in_order:
            if name in ahead:
                answer, position = self.companions[name].answer, known[name].position
                if answer not in drafts:
                    truth = sampled(states[answer]) if answer in states else 0
                    drafts[answer] = self.draft(truth)
                    self.drafts[drafts[answer] == truth] += 1
                self.write({name: LastToken(position, drafts[answer])})
            states[name] = self._compute(name, *spans[name])
        for name, (_, stop) in spans.items():
            if name in self.companions:
                answer, stream = self.companions[name]
                now = Behind(stop - 1, states[name], tuple(self.tokens(name)[:stop]))
                streams = self.streams.setdefault(answer, {})
                before = (e for e in streams.get(stream, ()) if e.position == stop - 2)
                streams[stream] = (now, *before)
        samples = []
        for name, (_, stop) in spans.items():
            last = stop == len(self.tokens(name))
            samples.append([sampled(states[name])] if last else [])
            if last:
                self.keep(name, samples[-1][0])
        ran = ModelRunnerOutput(
            req_ids=list(spans),
            req_id_to_index={name: n for n, name in enumerate(spans)},
            sampled_token_ids=samples,
            logprobs=None,
            prompt_logprobs_dict={},
            pooler_output=[],
        )
        failed = {name: why for name, why in self.fail.items() if name in spans}
        ill = [name for name, state in states.items() if state == NAN]
        if failed or ill or drafts:
            setattr(ran, REPORT_ATTRIBUTE, StepReport(failed=failed, ill=ill, drafts=drafts))
        return ran

    def write(self, tokens: Mapping[str, LastToken]) -> None:
        """The product's part: the tokens with which companions go on."""
        raise NotImplementedError

    def take(self, output: Any) -> None:
        """Requests come and go on."""
        raise NotImplementedError

    def tokens(self, name: str) -> list[int]:
        """What the runner holds for a request's tokens."""
        raise NotImplementedError

    def keep(self, name: str, token: int) -> None:
        """A token was sampled."""
        raise NotImplementedError

    def came(self, new: Any, tokens: list[int]) -> None:
        """A new request, or one that a runner is given anew."""
        assert new.req_id not in self.requests, f"{new.req_id} is there already"
        extra = new.sampling_params.extra_args
        self.requests[new.req_id] = Live(
            tokens, Plan.of(extra), list(new.block_ids[0]), new.num_computed_tokens
        )
        said = Companion.of(extra)
        if said is not None:
            self.companions[new.req_id] = said

    def forget(self, names: Collection[str]) -> None:
        """Requests ended."""
        for name in names:
            self.requests.pop(name, None)
            self.choices.pop(name, None)
            said = self.companions.pop(name, None)
            if said is not None:
                self.streams.pop(said.answer, None)

    def _choose(self, name: str, last: int) -> None:
        """Find what is added at the last token of a dynamic answer in this step."""
        request = self.requests[name]
        if request.plan is None or request.plan.dynamic is None:
            return
        choices = self.choices.setdefault(name, [])
        new = last - request.num_prompt_tokens + 2 - len(choices)
        if new <= 0:
            return  # A part of its prompt, or computed before, as after a preemption.
        assert new == 1, f"{name} runs ahead of its companions by {new} tokens"
        if len(choices) % request.plan.dynamic.every:
            choices.append(choices[-1])
            return
        kept = self.streams.get(name, {})
        streams = [kept.get(n) for n in range(len(request.plan.vectors) + 1)]
        tokens = tuple(self.tokens(name)[: last + 1])
        states = []
        for stream, one in enumerate(streams):
            here = [e for e in one or () if e.position == last]
            assert here, f"{name} is at {last}, its stream {stream}: {one}"
            assert here[0].tokens == tokens, f"{name} and its stream {stream} at {last}"
            states.append(here[0].state)
        choices.append(chosen(states))

    def _compute(self, name: str, first: int, stop: int) -> int:
        """Compute tokens [first, stop); the state behind the last."""
        request, tokens = self.requests[name], self.tokens(name)
        assert stop <= len(tokens), f"{name}: {stop} of {len(tokens)} tokens"
        assert stop <= len(request.blocks) * BLOCK, f"{name}: no block for token {stop - 1}"
        state = self._cache[self._place(request, first - 1)] if first else 0
        for i in range(first, stop):
            state = mix(state, tokens[i], self._added(name, request, i))
            self._cache[self._place(request, i)] = state
        if state != NAN:
            left = [(b, s) for b in request.blocks for s in range(BLOCK)]
            assert NAN not in map(self._cache.get, left), f"{name} has a block that is not clean"
        return state

    def _added(self, name: str, request: Live, token: int) -> int:
        prompt = request.num_prompt_tokens
        if request.plan is None or request.plan.dynamic is None:
            return added(request.plan, token, prompt)
        return self.choices[name][token - prompt + 1] if token >= prompt - 1 else 0

    @staticmethod
    def _place(request: Live, token: int) -> tuple[int, int]:
        return request.blocks[token // BLOCK], token % BLOCK


class WorkerV1(Worker):
    """As `vllm/v1/worker/gpu_model_runner.py` keeps requests."""

    def __init__(self) -> None:
        super().__init__()
        self._batch: dict[str, list[int]] = {}
        """Tokens of those that were in the last step: what is sampled for them is added here."""

    def take(self, output: Any) -> None:
        cached = output.scheduled_cached_reqs
        model_runner_v1._give_tokens(self, self, cached)  # type: ignore[arg-type]
        scheduled = output.num_scheduled_tokens.keys() - cached.resumed_req_ids
        self._batch = {name: self._batch[name] for name in self._batch.keys() & scheduled}
        for new in output.scheduled_new_reqs:
            self.came(new, list(new.prompt_token_ids))
        for name, first, blocks, outputs in zip(
            cached.req_ids,
            cached.num_computed_tokens,
            cached.new_block_ids,
            cached.num_output_tokens,
            strict=True,
        ):
            request = self.requests[name]
            request.first = first
            del request.output_token_ids[outputs:]
            if name in cached.resumed_req_ids:
                request.blocks = []
            request.blocks += blocks[0] if blocks else ()
            if name in self._batch:
                del self._batch[name][request.num_prompt_tokens + outputs :]
        for name in output.num_scheduled_tokens:
            request = self.requests[name]
            self._batch.setdefault(name, [*request.prompt, *request.output_token_ids])

    def write(self, tokens: Mapping[str, LastToken]) -> None:
        rows = {name: dict(enumerate(row)) for name, row in self._batch.items()}
        cells, lengths = dict[tuple[str, int], int](), {n: len(row) for n, row in rows.items()}
        self.input_batch = SimpleNamespace(
            req_id_to_index={name: name for name in rows},
            token_ids_cpu=cells,
            is_token_ids={},
            num_tokens_no_spec=lengths,
        )
        model_runner_v1._write_tokens(self, tokens)
        for (name, position), token in cells.items():
            rows[name][position] = token
        self._batch = {n: [row[i] for i in range(lengths[n])] for n, row in rows.items()}

    def tokens(self, name: str) -> list[int]:
        return self._batch[name]

    def keep(self, name: str, token: int) -> None:
        self._batch[name].append(token)
        self.requests[name].output_token_ids.append(token)

    def forget(self, names: Collection[str]) -> None:
        super().forget(names)
        for name in names:
            self._batch.pop(name, None)


class WorkerV2(Worker):
    """As `vllm/v1/worker/gpu/model_runner.py` keeps requests: those that are preempted come anew,
    and behind what a request came with, it goes on with what was sampled last."""

    def __init__(self) -> None:
        super().__init__()
        self.last_sampled_tokens: dict[str, int] = {}
        self.prefill_len = SimpleNamespace(np=dict[str, int]())
        # What the device counts for itself.
        self.num_computed_tokens = SimpleNamespace(gpu=dict[str, int]())
        self.total_len = SimpleNamespace(gpu=dict[str, int]())
        self._tokens: dict[str, list[int]] = {}

    @property
    def req_id_to_index(self) -> dict[str, str]:
        return {name: name for name in self.requests}

    def take(self, output: Any) -> None:
        for name in output.preempted_req_ids:
            self.requests.pop(name, None)
        for new in output.scheduled_new_reqs:
            self._tokens[new.req_id] = list(new.prefill_token_ids)
            tokens = len(new.prefill_token_ids)
            self.prefill_len.np[new.req_id] = self.total_len.gpu[new.req_id] = tokens
            self.num_computed_tokens.gpu[new.req_id] = new.num_computed_tokens
            self.came(new, list(new.prompt_token_ids))
        cached = output.scheduled_cached_reqs
        assert not cached.resumed_req_ids
        for name, first, blocks in zip(
            cached.req_ids, cached.num_computed_tokens, cached.new_block_ids, strict=True
        ):
            self.requests[name].first = first
            self.requests[name].blocks += blocks[0] if blocks else ()
        for name, tokens in output.num_scheduled_tokens.items():
            stop = self.requests[name].first + tokens
            if stop > self.prefill_len.np[name] and name not in self.companions:
                self._tokens[name][stop - 1] = self.last_sampled_tokens[name]

    def write(self, tokens: Mapping[str, LastToken]) -> None:
        model_runner_v2._write_tokens(self, tokens)
        for name, (position, _) in tokens.items():
            if position >= self.prefill_len.np[name]:
                self._tokens[name][position:] = [self.last_sampled_tokens[name]]

    def tokens(self, name: str) -> list[int]:
        return self._tokens[name]

    def keep(self, name: str, token: int) -> None:
        assert self.total_len.gpu[name] == len(self._tokens[name])
        self.total_len.gpu[name] += 1
        self._tokens[name].append(token)
        self.last_sampled_tokens[name] = token

    def _compute(self, name: str, first: int, stop: int) -> int:
        assert self.num_computed_tokens.gpu[name] == first, name
        self.num_computed_tokens.gpu[name] = stop
        return super()._compute(name, first, stop)
