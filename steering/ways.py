"""Ways of running vLLM that cannot be steered rightly, and are refused when a worker starts.

What is steered is tested in `tests/matrix/`, which also makes the README's table of ways.
"""

from typing import Any

from steering.blocks import NotInstrumentable

KEYED_CONNECTORS = frozenset({"OffloadingConnector", "SimpleCPUOffloadConnector"})
"""KV connectors that find blocks by vLLM's own block hashes, which our keys are part of."""


def check_ways(vllm_config: Any, runner: Any) -> None:
    """Raise `NotInstrumentable` for ways of running that this version cannot steer rightly."""
    parallel, cache = vllm_config.parallel_config, vllm_config.cache_config
    connector = _connector(vllm_config)
    for refused, why in (
        # Only the last rank sees all of a step's hidden states, and the probe of the self-check.
        (parallel.pipeline_parallel_size > 1, "pipeline parallel; use tensor parallel"),
        # A step's tokens are cut in two, or spread over ranks: token numbers are not ours any more.
        (parallel.use_ubatching, "micro-batches; drop --enable-dbo and --ubatch-size"),
        (
            parallel.prefill_context_parallel_size > 1,
            "prefill context parallel; drop --prefill-context-parallel-size",
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
        # It would hand blocks of steered requests to others.
        (
            connector is not None,
            f"the KV connector {connector}, whose blocks are not known to be keyed by their "
            f"steering; {', '.join(sorted(KEYED_CONNECTORS))} are",
        ),
    ):
        if refused:
            raise NotInstrumentable(f"Steersman cannot steer under {why}")


def _connector(vllm_config: Any) -> str | None:
    """The KV connector that this engine uses, unless it is one of `KEYED_CONNECTORS`."""
    transfer = vllm_config.kv_transfer_config
    if transfer is None or transfer.kv_connector in (None, *KEYED_CONNECTORS):
        return None
    return str(transfer.kv_connector)
