"""`steersman serve`: vLLM's own API server with the plugin on and fitting defaults.

Adds defaults, not powers: `VLLM_PLUGINS=steersman vllm serve ...` gives the same server.
"""

import argparse
import difflib
import os
import sys
import traceback
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from steersman.client.launch import checks
from steersman.client.launch.causes import cause
from steersman.client.launch.checks import CannotStart
from steersman.client.launch.flags import add_settings
from steersman.client.launch.run import FORMATS, Run
from steersman.client.launch.signals import end_at_once, kill_descendants, leave, watch_start
from steersman.steering.plan.settings import Settings, default_home, flag_of

KV_CACHE_BYTES = 2 * 2**30
"""KV cache on a CPU: vLLM's own default takes most of the machine's memory."""
SHUTDOWN_SECONDS = 60
"""`--shutdown-timeout`: what runs when SIGTERM comes has so long to finish. vLLM's default is 0."""
DEMO_NAME = "smollm2"
TOOL_PARSER = "hermes"
"""Reads the calls that the demo model was taught to write."""
LAST = "the API server"
DEFAULT_PORT = 8000
"""vLLM's."""
NO_MODEL = (
    "no model is named: give the path of one, its name on the hub such as Qwen/Qwen3-0.6B, or "
    "--demo for a small one that comes along"
)


def serve(argv: list[str]) -> int:
    """Parse `argv`, prepare what is asked for, and serve until stopped. Returns the exit status: 1,
    with one line on stderr, for a server that cannot start."""
    own = _own_parser()
    if "-h" in argv or "--help" in argv:
        own.print_help()
        return 0
    ours, theirs = own.parse_known_args(argv)
    explicit = _explicit(argv)
    try:
        _check_settings({}, explicit)
        _check_early(ours, explicit, theirs)
    except CannotStart as error:
        return _fail(str(error))
    # Before vLLM is imported, which takes seconds and which a signal may end, too.
    environment_defaults()
    run = Run(log_format=ours.log_format, verbose=ours.verbose, theirs=theirs)
    end_at_once(run)
    try:
        _serve(ours, explicit, theirs, run)
    except CannotStart as error:
        return _fail(str(error))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # Also what vLLM's dependencies raise.
        if run.ready:
            raise
        return _fail(_why(run, error))
    return 0


def _serve(ours: argparse.Namespace, explicit: dict[str, Any], theirs: list[str], run: Run) -> None:
    from vllm.plugins import load_general_plugins

    # vLLM would do so a little later: ours refuses a version whose modules below may not be there.
    load_general_plugins()  # type: ignore[no-untyped-call]

    from vllm.entrypoints.cli.serve import ServeSubcommand
    from vllm.entrypoints.launchers.cli_args import validate_parsed_serve_args

    parser = _their_parser()
    args = parser.parse_args(theirs)
    _configure_log(args)
    if ours.demo and args.model_tag is not None:
        raise CannotStart("give a MODEL or --demo, not both")
    if not ours.demo and not _names_a_model(args, theirs):
        raise CannotStart(NO_MODEL)
    given, section = checks.section(args.additional_config)
    settings = _check_settings(section, explicit)
    checks.check_numbers(args)
    checks.check_files(settings)
    if line := checks.check_library(Path(settings["library"])):
        _say(line)
    if getattr(args, "grpc", False):
        raise CannotStart(
            "--grpc starts a server that steers nothing and knows of no keys; leave it out"
        )
    if settings.get("api_keys_file") and not getattr(args, "headless", False):
        _check_keys(Path(settings["api_keys_file"]))
    checks.check_address(args)
    if ours.demo:
        _prepare_demo(args, Path(settings["library"]))
    elif args.model_tag or args.model != parser.get_default("model"):
        checks.check_model(args.model_tag or args.model, args)
    args.additional_config = {**given, "steersman": settings}
    try:
        validate_parsed_serve_args(args)
    except (TypeError, ValueError) as error:
        raise CannotStart(str(error).removeprefix("Error: ")) from None
    os.environ.setdefault(
        "VLLM_CPU_OMP_THREADS_BIND",
        thread_binding(sorted(os.sched_getaffinity(0)), _workers_here(args)),
    )
    _say(f"starting {args.model_tag or args.model}; `-v` shows vLLM's own progress")
    _end_at_once_after_vllm(run)
    if args.headless or args.grpc:
        # Nothing of ours says when these are ready, and what they log counts from the beginning.
        run.set_ready()
    watch_start(run, lambda why: leave(run, 1, _with_trace(run, _first_cause(run, why), "")))
    ServeSubcommand.cmd(args)
    from steersman.server.drain import Drain

    if Drain.engine_died:
        raise CannotStart("the engine died; the log above says of what")


def _check_early(ours: argparse.Namespace, explicit: dict[str, Any], theirs: list[str]) -> None:
    """What can be known of `theirs` without vLLM, whose import takes seconds; the same is checked
    again with vLLM's parser, which knows --config and every other spelling."""
    if not ours.demo and not theirs:
        raise CannotStart(NO_MODEL)
    if "library" in explicit:
        checks.check_library(Path(ours.library))
    if theirs and not theirs[0].startswith("-") and checks.is_missing_path(theirs[0]):
        raise CannotStart(checks.no_folder(theirs[0]))
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for option, kind in (("--host", str), ("--port", int), ("--uds", str)):
        parser.add_argument(option, type=kind)
    parser.add_argument("--headless", action="store_true")
    parser.add_argument("--config")
    try:
        args, _ = parser.parse_known_args(theirs)
    except (argparse.ArgumentError, SystemExit):
        return
    if args.config is None:
        args.port = DEFAULT_PORT if args.port is None else args.port
        checks.check_address(args)


def _their_parser() -> Any:
    """vLLM's own parser with our defaults, whose errors are one line."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser: Any = FlexibleArgumentParser(prog="steersman serve")  # type: ignore[no-untyped-call]
    parser = make_arg_parser(parser)
    parser.set_defaults(shutdown_timeout=SHUTDOWN_SECONDS)
    if _on_cpu():
        parser.set_defaults(
            dtype="float32", enforce_eager=True, kv_cache_memory_bytes=KV_CACHE_BYTES
        )
    known = [*parser._option_string_actions, *_own_parser()._option_string_actions]

    def error(message: str) -> NoReturn:
        raise CannotStart(_usage(message, known))

    parser.error = error
    return parser


def _configure_log(args: Any) -> None:
    """Have uvicorn log as vLLM does: from 0.32 on vLLM looks for that in its arguments."""
    import vllm.logger

    if configure := getattr(vllm.logger, "configure_logging_from_args", None):
        configure(args)


def _usage(message: str, known: list[str]) -> str:
    """argparse's `message` as a sentence, with the option that may have been meant."""
    message = message.strip().splitlines()[0].removeprefix("argument ")
    if not message.startswith("unrecognized arguments:"):
        return f"{message}; `steersman serve --help` has our options, --help=all vLLM's"
    word = message.removeprefix("unrecognized arguments:").split()[0]
    near = difflib.get_close_matches(word.partition("=")[0].replace("_", "-"), known, 1)
    meant = f"; did you mean {near[0]}?" if near else ""
    return f"there is no option {word}{meant or '; `steersman serve --help=all` lists them'}"


def _names_a_model(args: Any, theirs: list[str]) -> bool:
    named = any(w.partition("=")[0] in ("--model", "--config") for w in theirs)
    return args.model_tag is not None or named


def _check_settings(section: dict[str, Any], explicit: dict[str, Any]) -> dict[str, Any]:
    """Settings out of `section` of --additional-config, with the options of the command line over
    them; says which replace one."""
    merged, lines = checks.read_settings(section, explicit, option_of_setting())
    for line in lines:
        _say(line)
    merged.setdefault("library", Settings().library)
    return merged


def option_of_setting() -> dict[str, str]:
    """The option of each setting."""
    return {name: flag_of(name) for name in Settings.model_fields}


def _explicit(argv: list[str]) -> dict[str, Any]:
    """Settings that the command line names, without those that are there by default."""
    parser = _own_parser()
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return _settings(parser.parse_known_args(argv)[0])


def _end_at_once_after_vllm(run: Run) -> None:
    """Put our signal handlers in front of those that vLLM sets right before it makes its socket."""
    from vllm.entrypoints.cli import serve as several
    from vllm.entrypoints.launchers.api_server import entry as one

    modules: tuple[Any, ...] = (several, one)
    for module in modules:
        original = getattr(module, "setup_server", None)
        if original is None:
            # A vLLM that is built otherwise: its own handlers are what there is.
            continue

        def setup_server(*args: Any, _original: Any = original, **kwargs: Any) -> Any:
            end_at_once(run)
            return _original(*args, **kwargs)

        module.setup_server = setup_server


def _why(run: Run, error: BaseException) -> str:
    """One line of why the start failed, and where the tracebacks are."""
    trace = "".join(traceback.format_exception(error))
    return _with_trace(run, cause(run.trace, error), trace)


def _first_cause(run: Run, why: str) -> str:
    """What a process has logged of its end; `why`, where none has."""
    return cause(run.trace, None) if run.trace else why


def _with_trace(run: Run, why: str, trace: str) -> str:
    if run.verbose:
        print(trace, file=sys.stderr, flush=True)
        return why
    kept = run.keep_trace(f"=== {LAST}\n{trace}" if trace else "")
    return f"{why} (tracebacks: {kept}, or with -v)" if kept else f"{why} (-v shows tracebacks)"


def _fail(why: str) -> int:
    kill_descendants()
    print(f"steersman serve: {why}", file=sys.stderr, flush=True)
    return 1


def _say(line: str) -> None:
    print(f"steersman: {line}", file=sys.stderr, flush=True)


def _check_keys(path: Path) -> None:
    """What the API server would find out when the model is loaded, found out before."""
    from steersman.server.auth.keyfile import KeysFileInvalid, read
    from steersman.server.auth.vllm_keys import check_store

    try:
        read(path)
        check_store()
    except (KeysFileInvalid, RuntimeError) as error:
        raise CannotStart(f"--api-keys-file: {error}") from None


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
    add("-v", "--verbose", action="store_true",
        help="log all that vLLM logs, and tracebacks of a failed start")  # fmt: skip
    add("--log-format", choices=FORMATS, default="text",
        help="text, json (an object a line), or vllm: as vLLM does (default: %(default)s)"
        )  # fmt: skip
    add("--demo", action="store_true", help=f"prepare and serve the demo model as `{DEMO_NAME}`")
    add_settings(parser)
    return parser


def _settings(ours: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(ours).items() if name in Settings.model_fields}


def _prepare_demo(args: argparse.Namespace, library: Path) -> None:
    """Model and vectors of the demo, made once; the vectors go into the library."""
    from steersman.vectors.demo.fill import fill_library
    from steersman.vectors.demo.model import prepare_model
    from steersman.vectors.demo.serving import serving_copy

    model = prepare_model(default_home(), _say)
    fill_library(model, library, _say)
    args.model = args.model_tag = str(serving_copy(model))
    args.use_tqdm_on_load = False
    if args.tool_call_parser is None:
        args.enable_auto_tool_choice, args.tool_call_parser = True, TOOL_PARSER
    if args.served_model_name is None:
        args.served_model_name = [DEMO_NAME]
