"""Our own options of `steersman serve`: a few by hand, and one for each field of `Settings`."""

import argparse
import os
from pathlib import Path
from typing import Any, Final

from pydantic.fields import FieldInfo

from steersman.client.launch.run import FORMATS
from steersman.steering.plan.settings import Settings, flag_of, is_place, kind_of, option_of

DEMO_NAME: Final = "smollm2"
SHUTDOWN_SECONDS: Final = 60
"""`--shutdown-timeout`: how long requests may still run after SIGTERM. vLLM's default is 0."""
FOLDERS: Final = frozenset({"library"})
"""Paths whose links are resolved. Other paths keep their links: those of a Secret or of a rotated
log point elsewhere tomorrow."""


def own_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="steersman serve",
        usage="steersman serve (MODEL | --demo) [options of ours] [options of vLLM's]",
        description="Serve a model behind the OpenAI API; each request may steer it.",
        epilog="Every other option is vLLM's, such as --host, --port, --max-model-len, --api-key: "
        f"--help=all lists them. --shutdown-timeout is {SHUTDOWN_SECONDS} here: requests "
        "that run at SIGTERM have that many seconds to finish. On a CPU the defaults are float32, "
        "eager, and a KV cache of 2 GiB.",
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


def explicit_settings(argv: list[str]) -> dict[str, Any]:
    """Settings that the command line gives, without those that have their default."""
    parser = own_parser()
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return settings_of(parser.parse_known_args(argv)[0])


def option_of_setting() -> dict[str, str]:
    """The option of each setting."""
    return {name: flag_of(name) for name in Settings.model_fields}


def settings_of(ours: argparse.Namespace) -> dict[str, Any]:
    """The settings among parsed options."""
    return {name: value for name, value in vars(ours).items() if name in Settings.model_fields}


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for every setting."""
    for name, field in Settings.model_fields.items():
        parser.add_argument(flag_of(name), dest=name, **_argument(name, field))


def _argument(name: str, field: FieldInfo) -> dict[str, Any]:
    option, kind = option_of(field), kind_of(field)
    what = str(field.description).replace("%", "%%")
    found: dict[str, Any] = {"default": field.get_default(call_default_factory=True)}
    if kind is bool:
        return {**found, "action": argparse.BooleanOptionalAction, "help": what}
    paths: dict[bool, Any] = {True: _absolute, False: os.path.abspath}
    found["type"] = paths[name in FOLDERS] if is_place(field) else kind
    default = option.unset or "%(default)s"
    return {**found, "metavar": option.metavar, "help": f"{what} (default: {default})"}


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().resolve())
