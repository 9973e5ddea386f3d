"""vLLM's scheduler without an engine: a small loop around it, and the model runner that hashes."""

import copy
import functools
import json
import os
from collections import Counter, deque
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from steersman.steering.plan import Plan
from steersman.steering.plan.capture import CAPTURE_KEY
from steersman.steering.plan.plan import PLAN_KEY, BankKey, VectorRows
from steersman.steering.plan.receipt import WAITING_KEY, Waiting
from steersman.steering.plan.wire.loads import (
    LOADS_ATTRIBUTE,
    ORDERS_ATTRIBUTE,
    Load,
    LoadOrders,
    LoadReport,
)
from steersman.steering.vllm.config import limits_of, step_entries
from steersman.steering.vllm.core import prefix_cache
from steersman.steering.vllm.core import scheduler as scheduler_seam
from tests.support.steering.hashing import (
    BLOCK,
    VOCABULARY,
    Ask,
    Worker,
    WorkerV1,
    WorkerV2,
    answer_to,
)
from tests.support.steering.loading import AllThere


class Setup(NamedTuple):
    """How a scheduler is set up."""

    blocks: int
    seats: int
    tokens: int = 64
    """The most of a step."""
    policy: str = "fcfs"
    caching: bool = True
    v2: bool = False
    longest: int = 64
    long_prefill: int = 0
    max_dynamic: int = 2
    bank_rows: int = 64
    max_waiting: int = 1000
    max_steps: int = 3
    max_segments: int = 2
    prefill_interval: int = 1
    """`--prefill-schedule-interval`: without data parallel it does something from vLLM 0.33 on."""
    loads: bool = False
    """Whether vectors have to be loaded; else the workers hold every one."""
    ahead: bool = False
    """Whether a step is scheduled before the one before it is over (asynchronous scheduling)."""


@functools.cache
def _config(folder: Path) -> Any:
    from vllm.config import CacheConfig, ModelConfig, SchedulerConfig, VllmConfig

    model = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 6,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 1024,
    }
    (folder / "config.json").write_text(json.dumps(model))
    with patch.dict(os.environ):  # It sets some for an engine to come.
        return VllmConfig(
            model_config=ModelConfig(
                model=str(folder), skip_tokenizer_init=True, dtype="float32", max_model_len=1024
            ),
            cache_config=CacheConfig(block_size=BLOCK),
            scheduler_config=SchedulerConfig(
                max_model_len=1024, is_encoder_decoder=False, async_scheduling=False
            ),
        )


def make_scheduler(folder: Path, setup: Setup) -> Any:
    """A scheduler with the seams in it; `folder` is for the model's configuration."""
    import torch
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    prefix_cache.install()
    scheduler_seam.install()
    config = copy.copy(_config(folder))
    for part in ("model_config", "scheduler_config", "cache_config"):
        setattr(config, part, copy.copy(getattr(config, part)))
    config.model_config.max_model_len = setup.longest
    config.scheduler_config.max_num_seqs = setup.seats
    config.scheduler_config.max_num_batched_tokens = setup.tokens
    config.scheduler_config.long_prefill_token_threshold = setup.long_prefill
    config.scheduler_config.policy = setup.policy
    config.scheduler_config.async_scheduling = setup.ahead
    config.scheduler_config.prefill_schedule_interval = setup.prefill_interval
    config.cache_config.enable_prefix_caching = setup.caching
    config.cache_config.num_gpu_blocks = setup.blocks
    config.additional_config = {
        "steersman": {
            name: getattr(setup, name)
            for name in ("max_dynamic", "bank_rows", "max_waiting", "max_steps", "max_segments")
        }
    }
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=8, dtype=torch.float32)
    scheduler: Any = (AsyncScheduler if setup.ahead else Scheduler)(
        config,
        KVCacheConfig(setup.blocks, [], [KVCacheGroupSpec(["layer"], spec)]),
        StructuredOutputManager(config),
        block_size=BLOCK,
    )
    scheduler.use_v2_model_runner = setup.v2
    if not setup.loads:
        scheduler.steering_admission.loads = AllThere()
    return scheduler


@functools.cache
def _hasher() -> Callable[[Any], Any]:
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash

    init_none_hash(sha256)
    hasher: Callable[[Any], Any] = get_request_block_hasher(BLOCK, sha256)
    return hasher


class Disk:
    """What a worker's threads read, without threads: a load takes some steps, or for ever."""

    def __init__(self) -> None:
        self.hangs = set[str]()
        """Vectors that are not read now."""
        self.gone = set[str]()
        """Those whose file is not there."""
        self.holds = set[VectorRows]()
        self.reads = Counter[str]()
        self._loads: dict[int, Load] = {}

    def follow(self, orders: LoadOrders) -> LoadReport:
        self.holds.difference_update(orders.evict)
        for number, load in [*self._loads.items()]:
            left = [p for p in load.points if (load.digest, *p, load.steps) not in orders.evict]
            self._loads[number] = load._replace(points=tuple(left))
            if not left:
                del self._loads[number]
        self._loads.update((load.number, load) for load in orders.load)
        report = LoadReport({}, {})
        for number, load in [*self._loads.items()]:
            if load.digest in self.hangs:
                continue
            del self._loads[number]
            self.reads[load.digest] += 1
            if load.digest in self.gone:
                report.failed[number] = "its file is gone"
            else:
                report.ready[number] = 0.25
                self.holds.update((load.digest, *point, load.steps) for point in load.points)
        return report


class Loop:
    """An engine core's loop, and what its clients see."""

    def __init__(self, folder: Path, setup: Setup, enough: int = 300) -> None:
        """`enough`: steps after which all must have been answered."""
        self.setup = setup
        self.enough = enough
        self.scheduler = make_scheduler(folder, setup)
        self.worker: Worker = WorkerV2() if setup.v2 else WorkerV1()
        self.asks: dict[str, Ask] = {}
        self.requests: dict[str, Any] = {}
        """vLLM's, of the clients' requests."""
        self.answers: dict[str, list[int]] = {}
        self.ended: dict[str, Any] = {}
        """The last output of each that ended, but for those that were aborted."""
        self.aborted: set[str] = set()
        self.steps = 0
        self.happened = Counter[str]()
        self.drafts = Counter[str]()
        """How many companions' drafts there were in places where they might go wrong."""
        self.under_way = deque[tuple[Any, Any]]()
        """Steps that are not over, with what their runner returned."""
        self.disk = Disk()
        self.waiting = Waiting(0, 0, 0)
        """As the front end knows it."""
        self.scheduled: dict[str, int] = {}
        """Tokens that the last step computed, by request."""

    def add(self, ask: Ask) -> None:
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request

        extra = {}
        if ask.plan is not None:
            limits_of(self.scheduler.vllm_config).check(ask.plan, len(ask.prompt))
            extra[PLAN_KEY] = ask.plan.to_json()
        if ask.capture is not None:
            extra[CAPTURE_KEY] = ask.capture.to_json()
        params = SamplingParams(
            temperature=0,
            max_tokens=ask.most,
            stop_token_ids=sorted(ask.stops),
            extra_args=extra or None,
        )
        request = Request(
            ask.name,
            list(ask.prompt),
            params,
            None,
            arrival_time=float(len(self.asks)),
            priority=ask.priority,
            cache_salt=ask.salt,
            block_hasher=_hasher() if self.setup.caching else None,
        )
        self.asks[ask.name] = ask
        self.requests[ask.name] = request
        self.answers[ask.name] = []
        self.scheduler.add_request(request)

    def abort(self, names: str | Collection[str] | None) -> list[Any]:
        """As when clients go; None for all."""
        from vllm.v1.request import RequestStatus

        there = self.asks.keys() - self.ended.keys()
        self.aborted |= (
            there if names is None else {names} if isinstance(names, str) else set(names)
        )
        ended: list[Any] = self.scheduler.finish_requests(names, RequestStatus.FINISHED_ABORTED)
        return ended

    def step(self, gone: Collection[str] = (), throttled: bool = False) -> list[Any]:
        """One step, in which clients have `gone` while it was computed; its outputs."""
        self.steps += 1
        assert self.steps <= self.enough, "no end"
        if self.scheduler.has_requests() or not self.under_way:
            self._schedule(throttled)
        if gone:
            for name in gone:
                ahead = any(self._is_ahead(one, name) for one in self.scheduler.requests)
                self.drafts["aborted beside"] += ahead
            self.abort(gone)
        if self.setup.ahead and self.scheduled and len(self.under_way) < 2:
            return []
        found = self.scheduler.update_from_output(*self.under_way.popleft())
        outputs = [one for client in found.values() for one in client.outputs]
        for one in outputs:
            if one.request_id == WAITING_KEY:
                self.waiting = Waiting(*one.kv_transfer_params[WAITING_KEY])
        outputs = [one for one in outputs if one.request_id != WAITING_KEY]
        for one in outputs:
            name = one.request_id
            assert name in self.asks, f"nobody asked for {name}"
            assert name not in self.aborted | self.ended.keys(), f"{name} has ended"
            self.answers[name] += one.new_token_ids
            if one.finish_reason is not None:
                self.ended[name] = one
        return outputs

    def _schedule(self, throttled: bool) -> None:
        output = self.scheduler.schedule(throttled)
        self._check_tables()
        for name in output.preempted_req_ids:
            said = "ordinary"
            if self.scheduler.steering_companions.is_companion(name):
                said = "companion"
            elif self.asks[name].streams:
                said = "answer"
            self.happened[f"{said} preempted"] += 1
        self.scheduled = dict(output.num_scheduled_tokens)
        for name in filter(self._is_ahead, self.scheduled):
            tokens = self.scheduler.requests[name].num_computed_tokens
            self.drafts["begins a block"] += tokens % BLOCK == 1
            self.drafts["fills a block"] += tokens % BLOCK == 0
        ran = self.worker.run(output)
        if (orders := getattr(output, ORDERS_ATTRIBUTE, None)) is not None:
            ran = copy.copy(ran)
            setattr(ran, LOADS_ATTRIBUTE, self.disk.follow(orders))
        self.under_way.append((output, ran))

    def _is_ahead(self, name: str, answer: str | None = None) -> bool:
        """Whether this is a companion (of `answer`, if given) that has computed a draft."""
        companions = self.scheduler.steering_companions
        return companions.is_ahead(name) and answer in (None, companions.answer_of(name))

    def finish(self) -> None:
        """Run until nobody is left."""
        while self.scheduler.has_requests() or self.under_way:
            self.step()

    def check_answers(self) -> None:
        """Everybody has the answer that it would have had alone, or had until it was aborted."""
        assert self.ended.keys() | self.aborted == self.asks.keys()
        for name, ask in self.asks.items():
            expected = answer_to(ask, self.setup.longest)
            got = tuple(self.answers[name])
            assert got == (expected[: len(got)] if name in self.aborted else expected), name

    def check_empty(self) -> None:
        """Nothing is left of anybody."""
        scheduler, worker = self.scheduler, self.worker
        for what in ("requests", "running", "waiting", "kv_holding_waiting", "deferred_waiting"):
            assert not list(getattr(scheduler, what)), what
        assert not scheduler._inflight_prefills
        assert not scheduler.steering_refused
        assert not scheduler.steering_held
        streams, rows = scheduler.steering_companions, scheduler.steering_admission
        assert (len(streams), streams._groups) == (0, {})
        assert (rows.taken, rows.waiting, rows._steps_taken) == (0, 0, 0)
        assert all(not kept for kept in (rows._users, rows._runs, rows._watchers, rows._doubtful))
        assert (rows.loads.waiting, rows.loads.loading, rows.loads._seconds) == (0, 0, {})
        free = scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        assert free == self.setup.blocks - 1  # One stands for none.
        self.step()  # The worker is told who ended.
        assert self.scheduled == {}
        assert self.waiting == (0, 0, 0)
        for held in (worker.requests, worker.companions, worker.streams, worker.choices):
            assert not held

    def _check_tables(self) -> None:
        """Whoever may be in a worker's batch has its rows there."""
        config = self.scheduler.vllm_config
        limits = limits_of(config)
        bank = set[BankKey]()
        table = 0
        for request in self.scheduler.running:
            plan = Plan.of(request.sampling_params.extra_args)
            if plan is not None:
                bank |= plan.bank_keys
                if self.setup.loads:
                    assert plan.row_sets <= self.disk.holds
                    assert sum(rows[-1] for rows in self.disk.holds) <= limits.bank_rows
                segments = len(plan.segments(request.num_prompt_tokens))
                if any(vector.steps > 1 for vector in plan.vectors):
                    table += segments
                else:  # Each seat has so many.
                    assert segments <= limits.max_segments
        assert len(bank) <= limits.bank_rows
        assert table <= step_entries(config)
