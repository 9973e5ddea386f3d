"""Checks before the engine starts, of what would fail later. Each failure is one sentence: what is
wrong, with which option, and what to do."""

import argparse
import errno
import json
import os
import re
import socket
import stat
import tempfile
from pathlib import Path
from typing import Any, Final

from steersman.steering.plan.settings import Settings

_HUB_NAME: Final = re.compile(r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?(@[\w.-]+|:[\w.-]+)?$")
_HUB_SECONDS: Final = 10.0


class CannotStart(Exception):
    """The server cannot start. The message has what is wrong, the option, and what to do."""


def read_settings(
    given: dict[str, Any], explicit: dict[str, Any], flags: dict[str, str]
) -> tuple[dict[str, Any], list[str]]:
    """`given`, the section `steersman` of --additional-config, with the options of the command line
    over it (`explicit`); and a line for each value that an option replaces.

    `flags` maps settings to options. Raises `CannotStart` for a wrong value.
    """
    merged = {**given, **explicit}
    lines = [
        f"{flags.get(name, name)} {value} is used, not {name} {given[name]} of --additional-config"
        for name, value in explicit.items()
        if name in given and given[name] != value
    ]
    try:
        Settings.read({"steersman": merged})
    except (ValueError, TypeError) as error:
        raise CannotStart(_in_flags(str(error), merged, explicit, flags)) from None
    return merged, lines


def _in_flags(
    message: str, merged: dict[str, Any], explicit: dict[str, Any], flags: dict[str, str]
) -> str:
    """`message` of `Settings`, with the option in place of the setting's name."""
    found = next((n for n in sorted(flags, key=len, reverse=True)
                  if re.search(rf"\b{n}\b", message)), None)  # fmt: skip
    if found is None or found not in merged:
        return f"--additional-config: {message}"
    where = flags[found] if found in explicit else f'--additional-config "steersman.{found}"'
    rest = re.sub(rf"^.*?\b{found}\b:?\s*", "", message)
    return f"{where} {rest}, not {merged[found]!r}"


def section(additional_config: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """--additional-config as a dict, and its section `steersman`. Raises `CannotStart`."""
    value = additional_config
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise CannotStart(f"--additional-config is not JSON: {error}") from None
    value = {} if value is None else value
    ours = value.get("steersman", {}) if isinstance(value, dict) else None
    if not isinstance(ours, dict):
        raise CannotStart(
            '--additional-config must be an object, and "steersman" in it another, such as '
            '{"steersman": {"max_vectors": 4}}'
        )
    return dict(value), dict(ours)


def check_library(path: Path) -> str | None:
    """Raise `CannotStart` if the library at `path` can neither be made nor read. Returns a warning
    if it can only be read."""
    if path.exists() and not path.is_dir():
        raise CannotStart(f"--library {path} is a file; name a directory")
    try:
        path.mkdir(parents=True, exist_ok=True)
        os.listdir(path)
    except FileExistsError:
        raise CannotStart(f"--library {path} is a file; name a directory") from None
    except OSError as error:
        raise CannotStart(_no_library(path, error)) from None
    try:
        descriptor, name = tempfile.mkstemp(prefix=".tmp-", dir=path)
        os.close(descriptor)
        os.unlink(name)
    except OSError as error:
        # One that another server fills can be read, and its vectors steer.
        if not all((path / part).is_dir() for part in ("names", "objects")):
            raise CannotStart(_no_library(path, error)) from None
        return f"--library {path} can only be read: uploads and extractions will be refused"
    return None


def _no_library(path: Path, error: OSError) -> str:
    what = "is read-only" if error.errno == errno.EROFS else f"cannot be used ({error.strerror})"
    return f"--library {path} {what}; name a directory that this user may write"


def check_files(settings: dict[str, Any]) -> None:
    """Raise `CannotStart` for an audit log that cannot be written."""
    audit_log = settings.get("audit_log")
    if not audit_log:
        return
    try:
        os.close(os.open(audit_log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640))
    except OSError as error:
        raise CannotStart(
            f"--audit-log {audit_log} cannot be written ({error.strerror}); name another file"
        ) from None


def check_address(args: argparse.Namespace) -> None:
    """Raise `CannotStart` if the server cannot listen at its address: `host` and `port`, or `uds`,
    of vLLM's arguments."""
    if getattr(args, "headless", False):
        return
    if args.uds:
        _check_uds(Path(args.uds))
        return
    if not 0 <= args.port <= 65535:
        raise CannotStart(f"--port {args.port} is not a port; choose one from 1 to 65535")
    host = args.host or ""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, args.port))
            listener.listen(1)
        except socket.gaierror:
            raise CannotStart(
                f"--host {host} is not an address of this machine; give one that is"
            ) from None
        except OSError as error:
            raise CannotStart(_no_socket(error, host, args.port)) from None


def _no_socket(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        where = host or "this machine"
        return f"--port {port} is in use on {where}; stop what listens there, or choose another"
    if error.errno == errno.EACCES:
        return f"--port {port} needs rights that this user does not have; choose one above 1023"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"--host {host} is not an address of this machine; give one that is"
    return f"--host {host} --port {port}: {error.strerror}"


def _check_uds(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise CannotStart(f"--uds {path}: there is no directory {path.parent}") from None
        return
    except OSError as error:
        raise CannotStart(f"--uds {path}: {error.strerror}") from None
    kind = "a socket; name another path, or remove it if its server has ended" if stat.S_ISSOCK(
        mode) else "a file; name another path"  # fmt: skip
    raise CannotStart(f"--uds {path} is there already: {kind}")


def is_missing_path(model: str) -> bool:
    """Whether `model` can only be a path, and does not exist."""
    path = Path(model).expanduser()
    return "://" not in model and not path.exists() and not _HUB_NAME.match(model)


def no_folder(model: str) -> str:
    """The error for a path that does not exist."""
    return (
        f"there is no folder {model}; give the path of a model, its name on the hub such as "
        "Qwen/Qwen3-0.6B, or --demo"
    )


def check_model(model: str, args: argparse.Namespace) -> None:
    """Raise `CannotStart` if `model` is a missing folder, a folder without a model, or a name that
    neither the cache nor the hub has."""
    path = Path(model).expanduser()
    if "://" in model:
        return
    if path.is_dir():
        names = ("config.json", "params.json", "mistral", "*.gguf")
        if not any(next(path.glob(name), None) for name in names) and not args.hf_config_path:
            raise CannotStart(
                f"{model} has no config.json in it; name the folder of a Hugging Face model"
            )
        return
    if path.exists() or args.load_format not in ("auto", "hf", "safetensors", "pt", "dummy"):
        return
    if not _HUB_NAME.match(model):
        raise CannotStart(no_folder(model))
    _check_hub(model, args.revision)


def _check_hub(model: str, revision: str | None) -> None:
    if os.environ.get("VLLM_USE_MODELSCOPE", "").lower() in ("1", "true"):
        return
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError

    repo = re.split(r"[@:]", model)[0]
    for name in ("config.json", "params.json"):
        if isinstance(try_to_load_from_cache(repo, name, revision=revision), str):
            return
    nowhere = f"{model} is neither a folder here nor in the cache of the hub"
    if constants.HF_HUB_OFFLINE:
        raise CannotStart(f"{nowhere}, and HF_HUB_OFFLINE is set; give a folder, or --demo")
    try:
        get_hf_file_metadata(
            hf_hub_url(repo, "config.json", revision=revision), timeout=_HUB_SECONDS
        )
    except RepositoryNotFoundError:
        raise CannotStart(
            f"{nowhere}, and {constants.ENDPOINT} has no model of that name that you may read; "
            "check the name, log in with `hf auth login`, or give --demo"
        ) from None
    except (EntryNotFoundError, HfHubHTTPError):
        # A repository of another form, or a hub that is busy: vLLM knows more.
        return
    except Exception as error:  # noqa: BLE001  # Each transport has exceptions of its own.
        raise CannotStart(
            f"{nowhere}, and {constants.ENDPOINT} cannot be reached ({type(error).__name__}); "
            "give a folder, or --demo"
        ) from None


def check_numbers(args: argparse.Namespace) -> None:
    """Raise `CannotStart` for sizes in vLLM's options that always fail."""
    for name, least in (
        ("max_num_seqs", 1),
        ("max_num_batched_tokens", 1),
        ("block_size", 1),
        ("tensor_parallel_size", 1),
        ("data_parallel_size", 1),
        ("kv_cache_memory_bytes", 1),
        ("shutdown_timeout", 0),
    ):
        value = getattr(args, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value < least:
            flag = "--" + name.replace("_", "-")
            raise CannotStart(f"{flag} must be {least} or more, not {value}")
    value = args.max_model_len
    if isinstance(value, int) and value < 1 and value != -1:
        raise CannotStart(f"--max-model-len must be 1 or more, not {value}")
