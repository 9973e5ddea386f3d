"""Seam: vLLM's configuration (`config/vllm.py`): the sizes and settings of this engine."""

from dataclasses import replace
from typing import TYPE_CHECKING

from steersman.steering.plan.dynamic import MAX_PROPERTIES
from steersman.steering.plan.limits import Limits
from steersman.steering.plan.settings import Settings
from steersman.steering.worker.tables import TableSizes
from steersman.vectors.operation import OPERATIONS

if TYPE_CHECKING:
    from vllm.config import VllmConfig


def num_layers(vllm_config: "VllmConfig") -> int:
    """How many decoder blocks the model has, over all pipeline ranks."""
    return int(vllm_config.model_config.hf_text_config.num_hidden_layers)


def limits_of(vllm_config: "VllmConfig") -> Limits:
    """The limits of the plans that this engine accepts."""
    limits = Limits.of(Settings.read(vllm_config.additional_config), num_layers(vllm_config))
    operations = served_operations(vllm_config)
    return replace(limits, operations=operations, no_gates=no_gates(vllm_config))


def served_operations(vllm_config: "VllmConfig") -> tuple[str, ...]:
    """What vectors may do to the stream in this engine: `add`, and what the setting `operations`
    names. Without it, everything; but in graphs under tensor parallel, `add` alone: to read the
    whole stream, the operation must stand between an all-reduce and its norm."""
    asked = Settings.read(vllm_config.additional_config).operations
    if asked is not None:
        return tuple(name for name in OPERATIONS if name == "add" or name in asked.split(","))
    if runs_python(vllm_config) or vllm_config.parallel_config.tensor_parallel_size == 1:
        return OPERATIONS
    return ("add",)


def hidden_size(vllm_config: "VllmConfig") -> int:
    """Width of the model's residual stream."""
    return int(vllm_config.model_config.get_hidden_size())


def table_sizes(vllm_config: "VllmConfig", slots: int, max_tokens: int) -> TableSizes:
    """Sizes of one worker's tables. `slots`: hook points with an operation of their own;
    `max_tokens`: the most tokens of a padded step."""
    settings = Settings.read(vllm_config.additional_config)
    return TableSizes(
        slots=slots,
        table_entries=vllm_config.scheduler_config.max_num_seqs * settings.max_segments
        + step_entries(vllm_config),
        terms=settings.max_terms,
        bank_rows=settings.bank_rows,
        hidden=hidden_size(vllm_config),
        tokens=max_tokens,
        reading=len(served_operations(vllm_config)) > 1,
    )


def step_entries(vllm_config: "VllmConfig") -> int:
    """Table entries reserved for requests whose vectors have a tensor for each step: enough for any
    one of them and its companions."""
    settings = Settings.read(vllm_config.additional_config)
    return (MAX_PROPERTIES + 1) * settings.most_segments


def guessed_positions(vllm_config: "VllmConfig") -> int:
    """How many token indices too high the host may put a request in a step. Under asynchronous
    speculative decoding it prepares a step as if all drafts of the one before were kept."""
    if not vllm_config.scheduler_config.async_scheduling:
        return 0
    return int(vllm_config.num_speculative_tokens)


def runs_python(vllm_config: "VllmConfig") -> bool:
    """True where each step runs the model's Python: no compiled graph, no captured CUDA graph."""
    from vllm.config import CompilationMode, CUDAGraphMode

    compilation = vllm_config.compilation_config
    return bool(
        compilation.mode == CompilationMode.NONE
        and compilation.cudagraph_mode in (None, CUDAGraphMode.NONE)
    )


def no_gates(vllm_config: "VllmConfig") -> str | None:
    """What gates and markers are not served with in this engine; None if they are served."""
    v2, parallel = vllm_config.use_v2_model_runner, vllm_config.parallel_config
    ahead = vllm_config.scheduler_config.async_scheduling
    for refused, why in (
        (
            vllm_config.device_config.device_type != "cpu",
            "a GPU: they have been tried on a CPU alone",
        ),
        (
            parallel.pipeline_parallel_size > 1,
            "pipeline parallel: what one stage decides does not go to the next",
        ),
        (
            ahead and bool(vllm_config.speculative_config),
            "asynchronous scheduling with speculative decoding: it was not tried",
        ),
        (ahead and v2, "asynchronous scheduling by vLLM's V2 model runner: it was not tried"),
        (
            v2 and parallel.tensor_parallel_size > 1,
            "tensor parallel by vLLM's V2 model runner: it was not tried",
        ),
    ):
        if refused:
            return why
    return None
