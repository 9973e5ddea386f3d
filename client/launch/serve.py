"""`steersman serve`: vLLM's own API server with the plugin on and fitting defaults.

It only adds defaults: `VLLM_PLUGINS=steersman vllm serve ...` gives the same server.
"""

import argparse
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from steersman.client.launch import checks
from steersman.client.launch.causes import cause
from steersman.client.launch.checks import CannotStart
from steersman.client.launch.options import (
    DEMO_NAME,
    explicit_settings,
    option_of_setting,
    own_parser,
)
from steersman.client.launch.run import Run
from steersman.client.launch.signals import end_at_once, kill_descendants, leave, watch_start
from steersman.client.launch.vllm_arguments import (
    configure_log,
    environment_defaults,
    thread_binding,
    validate,
    vllm_parser,
    workers_here,
)
from steersman.steering.plan.settings import Settings, default_home

TOOL_PARSER = "hermes"
"""Reads the calls that the demo model was taught to write."""
LAST = "the API server"
DEFAULT_PORT = 8000
"""vLLM's."""
NO_MODEL = (
    "no model is named: give the path of one, its name on the hub such as Qwen/Qwen3-0.6B, "
    "or --demo for a small demo model"
)


def serve(argv: list[str]) -> int:
    """Parse `argv`, prepare what it asks for, and serve until stopped. Returns the exit status: 1,
    with one line on stderr, for a server that cannot start."""
    own = own_parser()
    if "-h" in argv or "--help" in argv:
        own.print_help()
        return 0
    ours, theirs = own.parse_known_args(argv)
    explicit = explicit_settings(argv)
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

    parser = vllm_parser()
    args = parser.parse_args(theirs)
    configure_log(args)
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
        raise CannotStart("--grpc starts a server without steering and without keys; leave it out")
    if settings.get("api_keys_file") and not getattr(args, "headless", False):
        _check_keys(Path(settings["api_keys_file"]))
    checks.check_address(args)
    if ours.demo:
        _prepare_demo(args, Path(settings["library"]))
    elif args.model_tag or args.model != parser.get_default("model"):
        checks.check_model(args.model_tag or args.model, args)
    args.additional_config = {**given, "steersman": settings}
    validate(args)
    os.environ.setdefault(
        "VLLM_CPU_OMP_THREADS_BIND",
        thread_binding(sorted(os.sched_getaffinity(0)), workers_here(args)),
    )
    _say(f"starting {args.model_tag or args.model}; `-v` shows vLLM's own progress")
    _end_at_once_after_vllm(run)
    if args.headless or args.grpc:
        # Nothing of ours knows when these are ready, so their log is shown from the beginning.
        run.set_ready()
    watch_start(run, lambda why: leave(run, 1, _with_trace(run, _first_cause(run, why), "")))
    ServeSubcommand.cmd(args)
    from steersman.server.drain import Drain

    if Drain.engine_died:
        raise CannotStart("the engine died; the log above has the cause")


def _check_early(ours: argparse.Namespace, explicit: dict[str, Any], theirs: list[str]) -> None:
    """Check `theirs` without importing vLLM, which takes seconds. vLLM's parser, which also reads
    --config and other spellings, checks it again later.
    """
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


def _names_a_model(args: Any, theirs: list[str]) -> bool:
    named = any(w.partition("=")[0] in ("--model", "--config") for w in theirs)
    return args.model_tag is not None or named


def _check_settings(section: dict[str, Any], explicit: dict[str, Any]) -> dict[str, Any]:
    """Settings from `section` of --additional-config, overridden by options of the command line.
    Prints which options override a setting."""
    merged, lines = checks.read_settings(section, explicit, option_of_setting())
    for line in lines:
        _say(line)
    merged.setdefault("library", Settings().library)
    return merged


def _end_at_once_after_vllm(run: Run) -> None:
    """Install our signal handlers right after vLLM's, which are installed before it makes its
    socket."""
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
    """Why the start failed, in one line, and where the tracebacks are."""
    trace = "".join(traceback.format_exception(error))
    return _with_trace(run, cause(run.trace, error), trace)


def _first_cause(run: Run, why: str) -> str:
    """The cause that a process has logged before it ended; `why` if there is none."""
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
    """Check the keys file now. The API server would check it only after the model is loaded."""
    from steersman.server.auth.keyfile import KeysFileInvalid, read
    from steersman.server.auth.vllm_keys import check_store

    try:
        read(path)
        check_store()
    except (KeysFileInvalid, RuntimeError) as error:
        raise CannotStart(f"--api-keys-file: {error}") from None


def _prepare_demo(args: argparse.Namespace, library: Path) -> None:
    """Make the model and vectors of the demo, once, and add the vectors to the library."""
    from steersman.vectors.demo.make import fill_library
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
