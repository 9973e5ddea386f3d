"""vLLM's own command line, with our defaults: its parser, and what follows from its arguments."""

import argparse
import difflib
import os
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, NoReturn

from steersman.client.launch.checks import CannotStart
from steersman.client.launch.options import SHUTDOWN_SECONDS, own_parser

KV_CACHE_BYTES: Final = 2 * 2**30
"""KV cache on a CPU: vLLM's own default takes most of the machine's memory."""


def environment_defaults() -> None:
    """Environment variables that must be set before vLLM is imported. Those that the user has set
    are kept."""
    # vLLM compares the names as they are, blanks included.
    plugins = [name.strip() for name in os.environ.get("VLLM_PLUGINS", "").split(",")]
    named = [name for name in plugins if name]
    os.environ["VLLM_PLUGINS"] = ",".join(dict.fromkeys([*named, "steersman"]))
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


def vllm_parser() -> Any:
    """vLLM's own parser with our defaults. Its errors are one line."""
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser: Any = FlexibleArgumentParser(prog="steersman serve")  # type: ignore[no-untyped-call]
    parser = cli_args().make_arg_parser(parser)
    parser.set_defaults(shutdown_timeout=SHUTDOWN_SECONDS)
    if on_cpu():
        parser.set_defaults(
            dtype="float32", enforce_eager=True, kv_cache_memory_bytes=KV_CACHE_BYTES
        )
    known = [*parser._option_string_actions, *own_parser()._option_string_actions]

    def error(message: str) -> NoReturn:
        raise CannotStart(usage(message, known))

    parser.error = error
    return parser


def cli_args() -> Any:
    """vLLM's module of its options."""
    try:
        from vllm.entrypoints.common import cli_args as found  # type: ignore[attr-defined]
    except ImportError:  # Before vLLM 0.33.
        from vllm.entrypoints.launchers import cli_args as found
    return found


def validate(args: Any) -> None:
    """Raise `CannotStart` if vLLM refuses `args`."""
    try:
        cli_args().validate_parsed_serve_args(args)
    except (TypeError, ValueError) as error:
        raise CannotStart(str(error).removeprefix("Error: ")) from None


def configure_log(args: Any) -> None:
    """Have uvicorn log as vLLM does: from 0.32 on vLLM looks for that in its arguments."""
    import vllm.logger

    if configure := getattr(vllm.logger, "configure_logging_from_args", None):
        configure(args)


def thread_binding(cpus: Sequence[int], workers: int) -> str:
    """`VLLM_CPU_OMP_THREADS_BIND` for `workers` worker processes: all of `cpus`, shared out evenly;
    with fewer of them than workers, one each, in turn.

    vLLM keeps one core back by default, which halves the speed of two, and takes one list a worker:
    the ranks of the first data parallel replica, then those of the next.
    """
    if len(cpus) < workers:
        return "|".join(str(cpus[n % len(cpus)]) for n in range(workers))
    cuts = [n * len(cpus) // workers for n in range(workers + 1)]
    return "|".join(",".join(map(str, cpus[a:b])) for a, b in pairwise(cuts))


def workers_here(args: argparse.Namespace) -> int:
    """Worker processes that this call starts on this machine, over all data parallel replicas."""
    ranks = args.tensor_parallel_size * args.pipeline_parallel_size // (args.nnodes or 1)
    replicas = args.data_parallel_size_local
    if args.data_parallel_external_lb or args.data_parallel_rank is not None:
        replicas = 1
    elif replicas is None:
        replicas = args.data_parallel_size
    return max(1, int(ranks * replicas))


def usage(message: str, known: list[str]) -> str:
    """argparse's `message` as a sentence, with the option that was probably meant."""
    message = message.strip().splitlines()[0].removeprefix("argument ")
    if not message.startswith("unrecognized arguments:"):
        return f"{message}; `steersman serve --help` has our options, --help=all vLLM's"
    word = message.removeprefix("unrecognized arguments:").split()[0]
    near = difflib.get_close_matches(word.partition("=")[0].replace("_", "-"), known, 1)
    meant = f"; did you mean {near[0]}?" if near else ""
    return f"there is no option {word}{meant or '; `steersman serve --help=all` lists them'}"


def on_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())
