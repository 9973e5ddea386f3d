"""vLLM's two model runners as far as our seams see them: the order of their calls, read in 0.32.0
(`GPUModelRunner.execute_model` of each), with nothing behind them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from vllm.config import CUDAGraphMode
from vllm.forward_context import ForwardContext, override_forward_context

from steersman.steering.worker.tables import Tables


class Runner:
    """What both have. `seen` is what each forward pass found marked."""

    max_num_tokens, max_num_reqs = 64, 8
    device = torch.device("cpu")

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.seen: list[list[int]] = []
        self.graphs: list[tuple[bool, bool]] = []
        """Of each step's forward pass, whether a captured and whether a compiled graph may run."""
        self.positions = torch.arange(self.max_num_tokens)
        self.token_ids = torch.zeros(self.max_num_tokens, dtype=torch.int32)
        self.bad_token: int | None = None
        """Place in the batch of a token whose hidden state is not finite."""
        self.bad_row: int | None = None
        """Row of the logits that has an infinite one."""
        cache = SimpleNamespace(kv_cache=torch.ones(6, 2, 4))
        self.kv_cache_config = SimpleNamespace(num_blocks=3)
        self.compilation_config = SimpleNamespace(static_forward_context={"layer": cache})

    def hidden(self, tokens: int) -> torch.Tensor:
        """Final hidden states, of a batch that is padded."""
        found = torch.ones(tokens + 2, 4)
        found[tokens:] = torch.nan
        if self.bad_token is not None:
            found[self.bad_token, 2] = torch.nan
        return found

    def logits(self, requests: int) -> torch.Tensor:
        found = torch.zeros(requests, 5)
        found[:, 1] = -torch.inf  # As of vocabulary that is ruled out.
        if self.bad_row is not None:
            found[self.bad_row, 3] = torch.inf
        return found

    def forward(self, tokens: int) -> None:
        self.seen.append(self.tables.token_entry[:tokens].tolist())

    @contextmanager
    def forward_context(self, mode: CUDAGraphMode) -> Iterator[None]:
        """What the runners set around the forward pass, which was dispatched to `mode`."""
        context = ForwardContext({}, {}, {}, cudagraph_runtime_mode=mode)
        with override_forward_context(context):
            yield
        captured = context.cudagraph_runtime_mode != CUDAGraphMode.NONE
        self.graphs.append((captured, not context.skip_compiled))

    def _dummy_run(self, tokens: int, **_: Any) -> tuple[torch.Tensor, None]:
        self.forward(tokens)
        return torch.zeros(tokens, 1), None


class RunnerV1(Runner):
    """`v1/worker/gpu_model_runner.py`: a request that is preempted stays in `requests`."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        self.requests: dict[str, Any] = {}
        self.input_ids = SimpleNamespace(gpu=self.token_ids)
        self.execute_model_state: Any = None
        self.query_start_loc = SimpleNamespace(np=np.zeros(self.max_num_reqs + 1, dtype=np.int32))
        self.input_batch = SimpleNamespace(
            req_id_to_index={},
            num_computed_tokens_cpu=np.zeros(self.max_num_reqs, dtype=np.int32),
        )

    def execute_model(self, output: Any) -> Any:
        self._update_states(output)
        tokens = output.total_num_scheduled_tokens
        if not tokens:
            return SimpleNamespace()
        scheduled = [output.num_scheduled_tokens[r] for r in self.input_batch.req_id_to_index]
        self._prepare_inputs(output, np.array(scheduled, dtype=np.int32))
        with self.forward_context(CUDAGraphMode.PIECEWISE):
            self._model_forward(tokens)
        self.execute_model_state = SimpleNamespace(
            hidden_states=self.hidden(tokens),
            logits=self.logits(len(scheduled)),
            spec_decode_metadata=None,
        )
        return self.sample_tokens(None)

    def _update_states(self, output: Any) -> None:
        for name in output.finished_req_ids:
            self.requests.pop(name, None)
        for new in output.scheduled_new_reqs:
            self.requests[new.req_id] = SimpleNamespace(num_prompt_tokens=new.prompt_len)
        # Who is not scheduled leaves the batch.
        batch = self.input_batch
        batch.req_id_to_index = {name: n for n, name in enumerate(output.num_scheduled_tokens)}
        for name, row in batch.req_id_to_index.items():
            batch.num_computed_tokens_cpu[row] = output.computed[name]

    def _prepare_inputs(self, output: Any, scheduled: Any) -> None:
        np.cumsum(scheduled, out=self.query_start_loc.np[1 : len(scheduled) + 1])

    def _model_forward(self, tokens: int) -> None:
        self.forward(tokens)

    def sample_tokens(self, _grammar: Any) -> Any:
        inner = SimpleNamespace()
        return SimpleNamespace(_model_runner_output=inner, get_output=lambda: inner)


class RunnerV2(Runner):
    """`v1/worker/gpu/model_runner.py`: a request that is preempted is forgotten, and new again."""

    is_last_pp_rank = True

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        self._pre_hooks: list[Callable[[Any, Any], None]] = []
        self.model_state = SimpleNamespace(
            add_request=lambda index, new: None,
            preprocess_state=lambda batch, *rest: None,
            num_new_sampled_tokens_per_step=1,
        )
        self.req_states = SimpleNamespace(req_id_to_index={})
        self.input_buffers = SimpleNamespace(positions=self.positions)
        self.model = SimpleNamespace(
            compute_logits=lambda hidden: self.logits(len(hidden)),
            register_forward_pre_hook=self._pre_hooks.append,
        )

    def update_requests(self, output: Any) -> None:
        pass

    def sample(self, hidden: Any, batch: Any, _grammar: Any) -> None:
        self.model.compute_logits(hidden[: len(batch.req_ids)])

    def execute_model(self, output: Any, is_profile: bool = False) -> Any:
        self.finish_requests(output)
        for new in output.scheduled_new_reqs:
            index = self.req_states.req_id_to_index.setdefault(new.req_id, 0)
            self.model_state.add_request(index, new)
        tokens = output.total_num_scheduled_tokens
        if not tokens:
            return SimpleNamespace()
        # The batch is sorted: decodes before prefills.
        names = sorted(output.num_scheduled_tokens, key=output.num_scheduled_tokens.get)
        counts = np.array([output.num_scheduled_tokens[name] for name in names], dtype=np.int32)
        batch = SimpleNamespace(
            req_ids=names,
            num_tokens=tokens,
            num_scheduled_tokens=counts,
            query_start_loc_np=np.concatenate([[0], np.cumsum(counts)]),
            num_computed_tokens_np=np.array([output.computed[name] for name in names]),
            input_ids=self.token_ids,
            positions=self.positions,
        )
        self.model_state.preprocess_state(batch, (), None, None)
        mode = CUDAGraphMode.NONE if is_profile else CUDAGraphMode.FULL
        with self.forward_context(mode):
            if mode == CUDAGraphMode.NONE:  # A full graph replays, and nobody calls the model.
                for hook in self._pre_hooks:
                    hook(self.model, ())
            self.forward(tokens)
        self._batch = batch
        return self.sample_tokens(None)

    def finish_requests(self, output: Any) -> None:
        for name in output.finished_req_ids | (output.preempted_req_ids or set()):
            self.req_states.req_id_to_index.pop(name, None)

    def sample_tokens(self, _grammar: Any) -> Any:
        self.sample(self.hidden(self._batch.num_tokens), self._batch, None)
        return SimpleNamespace(model_runner_output=SimpleNamespace())
