"""What is refused at the start: versions, front ends, devices and ways of running.

They cannot be steered rightly. Where only dynamic composition or captures do not work, single
requests are refused instead (`no_dynamic`, `no_captures`). What is steered is tested in
`tests/matrix/`, which also makes the table of docs/ways.md.
"""

import sys
from typing import TYPE_CHECKING, Any, Final

from steersman.steering.plan.errors import NotInstrumentable
from steersman.steering.plan.settings import Settings
from steersman.steering.vllm import seams
from steersman.steering.vllm.seam import lacking

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.platforms import Platform

_GRPC: Final = ("vllm.entrypoints.launchers.grpc_server", "vllm.entrypoints.grpc_server")
SUPPORTED_VLLM: Final = ("0.32.", "0.33.")
"""Version prefixes whose seams have been read, and tried by `make compat`."""


DEVICES: Final = ("cpu", "cuda", "rocm")
"""Values of vLLM's `PlatformEnum` whose runners have the attributes that the seams read."""


CONNECTORS: Final = ("OffloadingConnector",)
"""KV connectors that name blocks by vLLM's own hashes, and can be kept from copying some
(`steersman.steering.vllm.core.connectors`)."""


def check_version(version: str) -> None:
    """Raise RuntimeError for a version of vLLM that Steersman has not been tested with. The message
    names the seams that this version lacks, among those of every process and of the API server."""
    if not version.startswith(SUPPORTED_VLLM):
        wanted = " or ".join(prefix + "*" for prefix in SUPPORTED_VLLM)
        missing = lacking(s for s in seams.SEAMS if s.process in (seams.EVERY, seams.API_SERVER))
        reason = (
            f"in which {'; '.join(missing)}"
            if missing
            else "which Steersman was not tested with: it might steer wrongly"
        )
        raise RuntimeError(
            f"Steersman supports vLLM {wanted}, this is {version}, {reason}. Install a supported "
            "vLLM, or take steersman out of VLLM_PLUGINS."
        )


def check_frontend() -> None:
    """Raise RuntimeError for vLLM's front ends in Rust and for gRPC: they load no endpoint plugins,
    and would ignore the `steering` field."""
    import vllm.envs as envs

    if envs.VLLM_USE_RUST_FRONTEND:
        raise RuntimeError("Steersman needs vLLM's Python front end: unset VLLM_USE_RUST_FRONTEND")
    if any(name in sys.modules for name in _GRPC) or "--grpc" in sys.argv:
        raise RuntimeError(
            "Steersman steers HTTP requests only; a gRPC server would ignore the `steering` field. "
            "Leave out --grpc, or take steersman out of VLLM_PLUGINS."
        )


def check_device(platform: "Platform") -> None:
    """Raise `NotInstrumentable` for a device whose model runner the seams do not support; without
    this check the start would fail later, with a missing attribute. `platform`: vLLM's
    `current_platform`."""
    name = platform._enum.name.lower()
    if name not in DEVICES:
        raise NotInstrumentable(
            f"Steersman cannot steer on {name.upper()} devices; it runs on CPUs and NVIDIA GPUs"
        )


def check_ways(vllm_config: "VllmConfig") -> None:
    """Raise `NotInstrumentable` for ways of running that this version cannot steer rightly."""
    parallel, cache = vllm_config.parallel_config, vllm_config.cache_config
    transfer = vllm_config.kv_transfer_config
    connector = transfer.kv_connector if transfer else None
    staged = parallel.pipeline_parallel_size > 1
    for refused, why in (
        # Not tried.
        (
            staged and vllm_config.speculative_config is not None,
            "pipeline parallel with speculative decoding; drop --speculative-config, or use tensor "
            "parallel",
        ),
        # A step's tokens are cut in two, or spread over ranks: our token numbers no longer match.
        (parallel.use_ubatching, "micro-batches; drop --enable-dbo and --ubatch-size"),
        (
            parallel.prefill_context_parallel_size > 1,
            "prefill context parallel; drop --prefill-context-parallel-size",
        ),
        # Each rank has some of a step's tokens between the layers, where steering adds.
        (
            parallel.use_sequence_parallel_moe,
            "expert parallel with sequence parallel; drop --enable-expert-parallel, or one of "
            "--tensor-parallel-size and --data-parallel-size",
        ),
        (
            parallel.enable_hc_sp and parallel.tensor_parallel_size > 1,
            "sequence parallel blocks; drop --enable-hc-sp, or use --tensor-parallel-size 1",
        ),
        (
            cache.kv_sharing_fast_prefill,
            "fast prefill with shared KV, which leaves tokens out; drop --kv-sharing-fast-prefill",
        ),
        # It may hand blocks of steered requests to others, or keep those of a request that is not
        # finite, as zeros if it copies them after they are cleaned.
        (
            connector is not None and connector not in CONNECTORS,
            f"the KV connector {connector}; use {', '.join(CONNECTORS)}, or drop "
            "--kv-transfer-config",
        ),
        # Of a state at the end of a prompt it heeds no limit.
        (
            connector is not None and cache.mamba_cache_mode == "align",
            f"the KV connector {connector} with a state-space model; drop --kv-transfer-config",
        ),
    ):
        if refused:
            raise NotInstrumentable(f"Steersman cannot steer under {why}")


def check_v1(settings: Settings) -> None:
    """Raise `NotInstrumentable` for a setting that model runner V1 has no seam for."""
    if settings.graphs_without_steering:
        raise NotInstrumentable(
            "--graphs-without-steering needs vLLM's V2 model runner: set "
            "VLLM_USE_V2_MODEL_RUNNER=1, or drop the option"
        )


def check_v2(runner: Any, vllm_config: "VllmConfig") -> None:
    """Raise `NotInstrumentable` if, under model runner V2, the host does not know whose token is at
    each place of a batch."""
    speculative = vllm_config.speculative_config
    adaptive = speculative is not None and speculative.enable_adaptive_verification
    new_tokens = runner.model_state.num_new_sampled_tokens_per_step
    for refused, why in (
        (
            adaptive,
            "adaptive verification (the device decides how many draft tokens each request gets); "
            "drop it from --speculative-config",
        ),
        (
            new_tokens != 1,
            f"a model that samples {new_tokens} tokens a step (diffusion); serve another model",
        ),
    ):
        if refused:
            raise NotInstrumentable(f"Steersman cannot steer vLLM's V2 model runner under {why}")


def no_dynamic(vllm_config: "VllmConfig") -> str | None:
    """Why this engine can compose no request dynamically; None if it can."""
    if vllm_config.speculative_config and vllm_config.scheduler_config.async_scheduling:
        return "asynchronous speculative decoding; the server needs --no-async-scheduling"
    # The first stage computes a step before the last one has the logits of the step before.
    if vllm_config.parallel_config.pipeline_parallel_size > 1:
        return "pipeline parallel"
    return None


def no_captures(vllm_config: "VllmConfig") -> str | None:
    """Why this engine can capture or read no residual stream; None if it can."""
    # What the other stages capture reaches nobody: vLLM takes the last one's output.
    if vllm_config.parallel_config.pipeline_parallel_size > 1:
        return "pipeline parallel"
    return None
