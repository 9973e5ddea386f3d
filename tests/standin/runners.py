"""vLLM's two model runners as far as our seams see them: the order of their calls, read in 0.32.0
(`GPUModelRunner.execute_model` of each), with nothing behind them."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from steering.tables import Tables


class Runner:
    """What both have. `seen` is what each forward pass found marked."""

    max_num_tokens, max_num_reqs = 64, 8

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.seen: list[list[int]] = []
        self.positions = torch.arange(self.max_num_tokens)

    def forward(self, tokens: int) -> None:
        self.seen.append(self.tables.token_row[:tokens].tolist())

    def _dummy_run(self, tokens: int, **_: Any) -> tuple[torch.Tensor, None]:
        self.forward(tokens)
        return torch.zeros(tokens, 1), None


class RunnerV1(Runner):
    """`v1/worker/gpu_model_runner.py`: a request that is preempted stays in `requests`."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        self.requests: dict[str, Any] = {}
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
        self._model_forward(tokens)
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
        return SimpleNamespace(_model_runner_output=SimpleNamespace())


class RunnerV2(Runner):
    """`v1/worker/gpu/model_runner.py`: a request that is preempted is forgotten, and new again."""

    def __init__(self, tables: Tables) -> None:
        super().__init__(tables)
        self.model_state = SimpleNamespace(
            add_request=lambda index, new: None,
            preprocess_state=lambda batch, *rest: None,
            num_new_sampled_tokens_per_step=1,
        )
        self.req_states = SimpleNamespace(req_id_to_index={})
        self.input_buffers = SimpleNamespace(positions=self.positions)
        self.num_speculative_steps = 0

    def update_requests(self, output: Any) -> None:
        pass

    def sample(self, _hidden: Any, _batch: Any, _grammar: Any) -> None:
        pass

    def execute_model(self, output: Any) -> Any:
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
        )
        self.model_state.preprocess_state(batch, (), None, None)
        self.forward(tokens)
        return self.sample_tokens(None)

    def finish_requests(self, output: Any) -> None:
        for name in output.finished_req_ids | (output.preempted_req_ids or set()):
            self.req_states.req_id_to_index.pop(name, None)

    def sample_tokens(self, _grammar: Any) -> Any:
        return SimpleNamespace(model_runner_output=SimpleNamespace())
