"""Settings of vLLM that a keys file replaces or forbids: its `--api-key`, its response store."""

import os
from argparse import Namespace


def take_over(args: Namespace) -> tuple[str, ...]:
    """Remove vLLM's own keys from its arguments and environment, and return them. vLLM's middleware
    would refuse the keys of the file. Ours checks both; vLLM's keys may do everything."""
    given = args.api_key or [os.environ.get("VLLM_API_KEY")]
    keys = [given] if isinstance(given, str) else given
    args.api_key = None
    # Read when vLLM adds its middleware, which is after the plugins.
    os.environ.pop("VLLM_API_KEY", None)
    return tuple(key for key in keys if key)


def check_store() -> None:
    """Raise RuntimeError if vLLM stores responses: it shows them to every caller, under ids that
    clients may choose, and outside of all limits."""
    if os.environ.get("VLLM_ENABLE_RESPONSES_API_STORE", "0") not in ("", "0"):
        raise RuntimeError(
            "VLLM_ENABLE_RESPONSES_API_STORE keeps responses where every key can read them: unset "
            "it, or do without --api-keys-file"
        )
