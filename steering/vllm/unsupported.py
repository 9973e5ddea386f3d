"""Ways of running vLLM that cannot be steered rightly, and are refused when a worker starts.

What is steered is tested in `tests/matrix/`, which also makes the README's table of ways.
"""

from typing import Any, Final

from steersman.steering.plan.errors import NotInstrumentable

DEVICES: Final = ("cpu", "cuda", "rocm")
"""Values of vLLM's `PlatformEnum` whose runners have the attributes that the seams read."""


def check_device(platform: Any) -> None:
    """Raise `NotInstrumentable` for a device whose runner nobody has read: it would fail later, of
    a missing attribute. `platform` is vLLM's `current_platform`."""
    name = platform._enum.name.lower()
    if name not in DEVICES:
        raise NotInstrumentable(
            f"Steersman cannot steer on {name.upper()} devices; it runs on CPUs and NVIDIA GPUs"
        )


def check_ways(vllm_config: Any, runner: Any) -> None:
    """Raise `NotInstrumentable` for ways of running that this version cannot steer rightly."""
    parallel, cache = vllm_config.parallel_config, vllm_config.cache_config
    passes = vllm_config.compilation_config.pass_config
    transfer = vllm_config.kv_transfer_config
    connector = transfer.kv_connector if transfer else None
    for refused, why in (
        # Only the last rank sees all of a step's hidden states, and the probe of the self-check.
        (parallel.pipeline_parallel_size > 1, "pipeline parallel; use tensor parallel"),
        # A step's tokens are cut in two, or spread over ranks: token numbers are not ours any more.
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
            # vLLM 0.32 has no such pass any more.
            bool(getattr(passes, "enable_sp", False)),
            "sequence parallel; drop enable_sp of the pass_config in --compilation-config",
        ),
        (
            cache.kv_sharing_fast_prefill,
            "fast prefill with shared KV, which leaves tokens out; drop --kv-sharing-fast-prefill",
        ),
        # Where a token lies is known to the device alone.
        (
            getattr(runner, "use_async_spec_decode", False),
            "asynchronous speculative decoding; drop one of the two",
        ),
        # It may hand blocks of steered requests to others; and where it keys them as vLLM does, it
        # keeps those of a step whose vector did not load, which we take out of vLLM's cache alone.
        (connector is not None, f"the KV connector {connector}; drop --kv-transfer-config"),
    ):
        if refused:
            raise NotInstrumentable(f"Steersman cannot steer under {why}")
