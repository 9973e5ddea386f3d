"""Presets that steer requests which do not say how: a key's, and else the server's."""

from typing import Any, Literal, NamedTuple

from steersman.server.auth.permissions import KeyPermissions
from steersman.server.errors import Misplaced, NotAllowed
from steersman.server.routing import path_of
from steersman.vectors.errors import SteersmanError, shown


class Default(NamedTuple):
    """A preset that an operator has chosen for requests that do not say how they are steered."""

    preset: str
    source: Literal["key", "server"]
    """Whose it is: the keys file's, or `--default-preset`'s."""
    locked: bool = False
    """Whether a request cannot say anything else."""

    @property
    def whose(self) -> str:
        """Whose it is, for a message."""
        if self.source == "key":
            return f"this key's {'preset' if self.locked else 'default preset'} {self.preset!r}"
        return f"the server's default preset {self.preset!r} (--default-preset)"

    @property
    def off(self) -> str:
        """How a request goes without it, for a message."""
        if self.locked:
            return "the key is bound to it (locked, in the keys file): use another key"
        return '"steering": null, or the header "X-Steering: null", turns it off'

    def bound(self, param: str) -> NotAllowed:
        """The error for a request that sets `param`, under a key that is bound to the preset."""
        return NotAllowed(
            f"this key is bound to the preset {self.preset!r} (locked, in the keys file), and its "
            f"requests cannot say how they are steered; leave out {param!r}, or use another key",
            param=param,
            code="preset_locked",
        )

    def unsteerable(self, scope: Any, routes: str) -> SteersmanError:
        """The error for a call to a route that would answer unsteered. `routes`: what to use
        instead."""
        path = shown(path_of(scope))
        message = f"{self.whose} steers this request, and {path} cannot be steered; {routes}"
        if self.locked:
            return NotAllowed(f"{message}. {self.off}", code="preset_locked")
        return Misplaced(f"{message}. {self.off}", param="steering", code="not_supported")


def default_of(permissions: KeyPermissions, server: str | None) -> Default | None:
    """The default of a request with these `permissions`. `server`: the server's default preset."""
    if permissions.preset is not None:
        return Default(permissions.preset, "key", permissions.locked)
    return None if server is None else Default(server, "server")
