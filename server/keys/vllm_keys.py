"""vLLM's own `--api-key`, beside a keys file."""

import os
from argparse import Namespace


def take_over(args: Namespace) -> tuple[str, ...]:
    """The keys that vLLM was given, taken from it: they go through our gate, as the file's do, and
    may do everything. vLLM's middleware, which knows nothing of the file's, would refuse those."""
    given = args.api_key or [os.environ.get("VLLM_API_KEY")]
    keys = [given] if isinstance(given, str) else given
    args.api_key = None
    # Read when vLLM adds its middleware, which is after the plugins.
    os.environ.pop("VLLM_API_KEY", None)
    return tuple(key for key in keys if key)
