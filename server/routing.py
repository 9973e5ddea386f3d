"""Which route a call goes to."""

from typing import Final

from starlette.types import Scope

PREFIX: Final = "/v1/steering"


def is_ours(scope: Scope) -> bool:
    """Whether the call goes to a route of this project."""
    path = path_of(scope)
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def path_of(scope: Scope) -> str:
    """The path of the call, without `--root-path`."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
