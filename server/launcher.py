"""`steersman serve`: vLLM's own API server with the plugin on and fitting defaults.

Adds defaults, not powers: `VLLM_PLUGINS=steersman vllm serve ...` gives the same server.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from steering.plan.settings import Settings, default_home

KV_CACHE_BYTES = 2 * 2**30
"""KV cache on a CPU: vLLM's own default takes most of the machine's memory."""
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
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser: Any = FlexibleArgumentParser(prog="steersman serve")  # type: ignore[no-untyped-call]
    parser = make_arg_parser(parser)
    if _on_cpu():
        parser.set_defaults(
            dtype="float32", enforce_eager=True, kv_cache_memory_bytes=KV_CACHE_BYTES
        )
    args = parser.parse_args(theirs)
    if ours.demo and args.model_tag is not None:
        raise SystemExit("steersman serve: give a MODEL or --demo, not both")
    if ours.demo:
        _prepare_demo(args, Path(ours.library))
    given = _mapping(args.additional_config)
    settings = {**_settings(ours), **given.get("steersman", {})}
    args.additional_config = {**given, "steersman": settings}
    validate_parsed_serve_args(args)
    ServeSubcommand.cmd(args)


def environment_defaults() -> None:
    """Environment that must stand before vLLM is imported; what the user set is kept."""
    plugins = os.environ.get("VLLM_PLUGINS", "")
    if "steersman" not in plugins.split(","):
        os.environ["VLLM_PLUGINS"] = f"{plugins},steersman" if plugins else "steersman"
    os.environ.setdefault("VLLM_USE_V2_MODEL_RUNNER", "0")
    # vLLM keeps one core back by default; with two cores that halves the speed.
    cpus = sorted(os.sched_getaffinity(0))
    if _consecutive(cpus):
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"{cpus[0]}-{cpus[-1]}")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")


def _consecutive(cpus: list[int]) -> bool:
    return cpus == list(range(cpus[0], cpus[-1] + 1))


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
        "--help=all lists them. On a CPU the defaults are float32, eager, and a KV cache of 2 GiB.",
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
    add("--max-terms", type=int, default=defaults.max_terms, metavar="K",
        help="vectors of one request that may meet at one site and layer "
        "(default: %(default)s)")  # fmt: skip
    add("--max-vectors", type=int, default=defaults.max_vectors, metavar="N",
        help="vectors that one request may name (default: %(default)s)")  # fmt: skip
    add("--max-coefficient", type=float, default=defaults.max_coefficient, metavar="C",
        help="largest absolute coefficient (default: %(default)s)")  # fmt: skip
    add("--max-relative-dose", type=float, default=None, metavar="D",
        help="largest ||c v|| / median ||h|| at a layer (default: no limit)")  # fmt: skip
    add("--max-upload-bytes", type=int, default=defaults.max_upload_bytes, metavar="BYTES",
        help="largest vector upload (default: %(default)s)")  # fmt: skip
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
