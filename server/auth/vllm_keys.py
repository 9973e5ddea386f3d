"""What of vLLM's does not go with a keys file as it is: its own `--api-key`, its response store."""

import os
from argparse import Namespace


def take_over(args: Namespace) -> tuple[str, ...]:
    """The keys that vLLM was given, taken from it: our middleware checks them with the file's, and
    they may do everything. vLLM's middleware would refuse the keys of the file."""
    given = args.api_key or [os.environ.get("VLLM_API_KEY")]
    keys = [given] if isinstance(given, str) else given
    args.api_key = None
    # Read when vLLM adds its middleware, which is after the plugins.
    os.environ.pop("VLLM_API_KEY", None)
    return tuple(key for key in keys if key)


def check_store() -> None:
    """Raise RuntimeError where vLLM keeps responses: it does for everybody alike, under ids that
    clients may choose, and answers them outside of any limit."""
    if os.environ.get("VLLM_ENABLE_RESPONSES_API_STORE", "0") not in ("", "0"):
        raise RuntimeError(
            "VLLM_ENABLE_RESPONSES_API_STORE keeps responses where every key can read them: unset "
            "it, or do without --api-keys-file"
        )
