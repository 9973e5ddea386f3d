"""`steersman serve` with a window for the soak: vLLM's /collective_rpc, by which anybody could have
the workers run anything and which is therefore off on every server, answers on this one, so that
what the workers hold can be seen.

    python -m bench.soak.server serve MODEL ...
"""

from steersman.client.cli import main
from steersman.server.auth import route_scopes as routes
from steersman.server.auth.permissions import ADMIN


def open_window() -> None:
    """In this process, which must be the API server's."""
    routes._NEEDS["POST", "/collective_rpc"] = ADMIN


if __name__ == "__main__":
    open_window()
    main()
