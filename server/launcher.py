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
    environment_defaults()
    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser: Any = FlexibleArgumentParser(  # type: ignore[no-untyped-call]
        prog="steersman serve",
        description="Serve a model behind the OpenAI API; each request may steer it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    _add_options(parser.add_argument_group("steersman"))
    parser = make_arg_parser(parser)
    if _on_cpu():
        parser.set_defaults(
            dtype="float32", enforce_eager=True, kv_cache_memory_bytes=KV_CACHE_BYTES
        )
    args = parser.parse_args(argv)
    if args.demo:
        _prepare_demo(args)
    args.additional_config = {**_mapping(args.additional_config), "steersman": _settings(args)}
    validate_parsed_serve_args(args)
    ServeSubcommand.cmd(args)
    return 0


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


def _add_options(group: Any) -> None:
    defaults = Settings()
    add = group.add_argument
    add("--demo", action="store_true", help="prepare and serve the demo model as `smollm2`")
    add("--library", default=defaults.library, help="directory of the vector library")
    add("--bank-rows", type=int, default=defaults.bank_rows,
        help="rows of the vector bank: one vector at one site and layer each")  # fmt: skip
    add("--max-terms", type=int, default=defaults.max_terms,
        help="vectors of one request that may meet at one site and layer")  # fmt: skip
    add("--max-vectors", type=int, default=defaults.max_vectors,
        help="vectors that one request may name")  # fmt: skip
    add("--max-coefficient", type=float, default=defaults.max_coefficient,
        help="largest absolute coefficient")  # fmt: skip
    add("--max-relative-dose", type=float, default=None,
        help="largest ||c v|| / median ||h|| at a layer; no limit if not given")  # fmt: skip
    add("--max-upload-bytes", type=int, default=defaults.max_upload_bytes,
        help="largest vector upload")  # fmt: skip


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    given = _mapping(args.additional_config).get("steersman", {})
    names = ("library", "bank_rows", "max_terms", "max_vectors", "max_coefficient",
             "max_relative_dose", "max_upload_bytes")  # fmt: skip
    settings = {name: getattr(args, name) for name in names}
    settings["library"] = str(Path(settings["library"]).expanduser().resolve())
    return {**settings, **given}


def _mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = json.loads(value)
    return dict(value or {})


def _prepare_demo(args: argparse.Namespace) -> None:
    """Model and vectors of the demo, made once; the vectors go into the library."""
    from vectors.demo.fill import fill_library
    from vectors.demo.model import prepare_model

    def say(line: str) -> None:
        print(f"steersman: {line}", file=sys.stderr, flush=True)

    model = prepare_model(default_home(), say)
    fill_library(model, Path(args.library).expanduser(), say)
    args.model = args.model_tag = str(model)
    if args.served_model_name is None:
        args.served_model_name = [DEMO_NAME]
