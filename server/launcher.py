"""`steersman serve`: vLLM's own API server with the plugin on and fitting defaults.

Adds defaults, not powers: `VLLM_PLUGINS=steersman vllm serve ...` gives the same server.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from steering.plan.settings import Settings, default_home

KV_CACHE_BYTES = 2 * 2**30
"""KV cache on a CPU: vLLM's own default takes most of the machine's memory."""
SHUTDOWN_SECONDS = 60
"""`--shutdown-timeout`: what runs when SIGTERM comes has so long to finish. vLLM's default is 0."""
DEMO_NAME = "smollm2"


def serve(argv: list[str]) -> int:
    """Parse `argv`, prepare what is asked for, and serve until stopped."""
    own = _own_parser()
    if "-h" in argv or "--help" in argv:
        own.print_help()
        return 0
    ours, theirs = own.parse_known_args(argv)
    environment_defaults()
    _serve(ours, theirs)
    return 0


def _serve(ours: argparse.Namespace, theirs: list[str]) -> None:
    from vllm.plugins import load_general_plugins

    # vLLM would do so a little later: ours refuses a version whose modules below may not be there.
    load_general_plugins()  # type: ignore[no-untyped-call]

    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser: Any = FlexibleArgumentParser(prog="steersman serve")  # type: ignore[no-untyped-call]
    parser = make_arg_parser(parser)
    parser.set_defaults(shutdown_timeout=SHUTDOWN_SECONDS)
    if _on_cpu():
        parser.set_defaults(
            dtype="float32", enforce_eager=True, kv_cache_memory_bytes=KV_CACHE_BYTES
        )
    args = parser.parse_args(theirs)
    if ours.demo and args.model_tag is not None:
        raise SystemExit("steersman serve: give a MODEL or --demo, not both")
    if ours.demo:
        _prepare_demo(args, Path(ours.library))
    if getattr(args, "grpc", False):
        raise SystemExit(
            "steersman serve: --grpc starts a server that steers nothing and knows of no keys; "
            "leave it out"
        )
    given = _mapping(args.additional_config)
    settings = {**_settings(ours), **given.get("steersman", {})}
    args.additional_config = {**given, "steersman": settings}
    if settings.get("api_keys_file") and not getattr(args, "headless", False):
        _check_keys(Path(settings["api_keys_file"]))
    validate_parsed_serve_args(args)
    os.environ.setdefault(
        "VLLM_CPU_OMP_THREADS_BIND",
        thread_binding(sorted(os.sched_getaffinity(0)), _workers_here(args)),
    )
    ServeSubcommand.cmd(args)
    from server.drain import Drain

    if Drain.engine_died:
        raise SystemExit("steersman serve: the engine died; the log above says of what")


def _check_keys(path: Path) -> None:
    """What the API server would find out when the model is loaded, found out before."""
    from server.keys.file import KeysFileInvalid, read
    from server.keys.vllm_keys import check_store

    try:
        read(path)
        check_store()
    except (KeysFileInvalid, RuntimeError) as error:
        raise SystemExit(f"steersman serve: {error}") from None


def environment_defaults() -> None:
    """Environment that must stand before vLLM is imported; what the user set is kept."""
    # vLLM compares the names as they are, blanks included.
    plugins = [name.strip() for name in os.environ.get("VLLM_PLUGINS", "").split(",")]
    named = [name for name in plugins if name]
    os.environ["VLLM_PLUGINS"] = ",".join(dict.fromkeys([*named, "steersman"]))
    os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


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


def _workers_here(args: argparse.Namespace) -> int:
    """Worker processes that this call starts on this machine, over all data parallel replicas."""
    ranks = args.tensor_parallel_size * args.pipeline_parallel_size // (args.nnodes or 1)
    replicas = args.data_parallel_size_local
    if args.data_parallel_external_lb or args.data_parallel_rank is not None:
        replicas = 1
    elif replicas is None:
        replicas = args.data_parallel_size
    return max(1, int(ranks * replicas))


def _on_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def _own_parser() -> argparse.ArgumentParser:
    defaults = Settings()
    parser = argparse.ArgumentParser(
        prog="steersman serve",
        usage="steersman serve (MODEL | --demo) [options of ours] [options of vLLM's]",
        description="Serve a model behind the OpenAI API; each request may steer it.",
        epilog="Every other option is vLLM's, such as --host, --port, --max-model-len, --api-key: "
        f"--help=all lists them. --shutdown-timeout is {SHUTDOWN_SECONDS} here: what runs at "
        "SIGTERM may finish within so many seconds. On a CPU the defaults are float32, eager, and "
        "a KV cache of 2 GiB.",
        allow_abbrev=False,
        add_help=False,
    )
    add = parser.add_argument
    add("--demo", action="store_true", help=f"prepare and serve the demo model as `{DEMO_NAME}`")
    add("--library", default=defaults.library, type=_absolute, metavar="DIR",
        help="directory of the vector library (default: %(default)s)")  # fmt: skip
    add("--bank-rows", type=int, default=defaults.bank_rows, metavar="N",
        help="rows of the vector bank, each one vector at one site and layer "
        "(default: %(default)s)")  # fmt: skip
    add("--max-waiting", type=int, default=defaults.max_waiting, metavar="N",
        help="requests that may wait for rows of the bank; the next is a 503 "
        "(default: %(default)s)")  # fmt: skip
    add("--max-terms", type=int, default=defaults.max_terms, metavar="K",
        help="vectors of one request that may meet at one site and layer "
        "(default: %(default)s)")  # fmt: skip
    add("--max-vectors", type=int, default=defaults.max_vectors, metavar="N",
        help="vectors that one request may name (default: %(default)s)")  # fmt: skip
    add("--max-steps", type=int, default=defaults.max_steps, metavar="N",
        help="generation steps of a vector that has a tensor for each "
        "(default: %(default)s)")  # fmt: skip
    add("--max-dynamic-requests", dest="max_dynamic", type=int, default=defaults.max_dynamic,
        metavar="N", help="dynamic requests that run at once in each engine, each answer with a "
        "companion sequence for every vector and one more; the next wait "
        "(default: %(default)s)")  # fmt: skip
    add("--max-coefficient", type=float, default=defaults.max_coefficient, metavar="C",
        help="largest absolute coefficient (default: %(default)s)")  # fmt: skip
    add("--max-relative-dose", type=float, default=None, metavar="D",
        help="largest ||c v|| / median ||h|| at a layer (default: no limit)")  # fmt: skip
    add("--max-upload-bytes", type=int, default=defaults.max_upload_bytes, metavar="BYTES",
        help="largest vector upload (default: %(default)s)")  # fmt: skip
    add("--max-extract-rows", type=int, default=defaults.max_extract_rows, metavar="N",
        help="texts of one extraction (default: %(default)s)")  # fmt: skip
    # Links are kept: a Secret's and a rotated log's point elsewhere tomorrow.
    add("--api-keys-file", default=None, type=os.path.abspath, metavar="PATH",
        help="keys, their scopes and limits: YAML, or a directory of it; read again when it "
        "changes; `steersman keys new` makes an entry (default: no keys)")  # fmt: skip
    add("--audit-log", default=None, type=os.path.abspath, metavar="FILE",
        help="a line of JSON for every change (default: standard output)")  # fmt: skip
    add("--max-library-vectors", type=int, default=defaults.max_library_vectors, metavar="N",
        help="vectors in the library (default: %(default)s)")  # fmt: skip
    add("--max-body-bytes", type=int, default=defaults.max_body_bytes, metavar="BYTES",
        help="largest body of any other request than an upload (default: %(default)s)")  # fmt: skip
    add("--max-body-containers", type=int, default=defaults.max_body_containers, metavar="N",
        help="lists and objects in the JSON of a request (default: %(default)s)")  # fmt: skip
    add("--max-body-depth", type=int, default=defaults.max_body_depth, metavar="N",
        help="lists and objects inside one another (default: %(default)s)")  # fmt: skip
    add("--max-body-values", type=int, default=defaults.max_body_values, metavar="N",
        help="members of all lists and objects; a token id is one "
        "(default: %(default)s)")  # fmt: skip
    add("--body-timeout", type=float, default=defaults.body_timeout, metavar="SECONDS",
        help="for a body to arrive; a slower one is a 408 (default: %(default)s)")  # fmt: skip
    add("--max-jobs", type=int, default=defaults.max_jobs, metavar="N",
        help="extractions that may run or wait, one running (default: %(default)s)")  # fmt: skip
    return parser


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())


def _settings(ours: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(ours).items() if name != "demo"}


def _mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = json.loads(value)
    return dict(value or {})


def _prepare_demo(args: argparse.Namespace, library: Path) -> None:
    """Model and vectors of the demo, made once; the vectors go into the library."""
    from vectors.demo.fill import fill_library
    from vectors.demo.model import prepare_model

    def say(line: str) -> None:
        print(f"steersman: {line}", file=sys.stderr, flush=True)

    model = prepare_model(default_home(), say)
    fill_library(model, library, say)
    args.model = args.model_tag = str(model)
    if args.served_model_name is None:
        args.served_model_name = [DEMO_NAME]
