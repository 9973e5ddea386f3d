"""A server's view without a server, over a library of small vectors, for tests."""

from pathlib import Path
from typing import Any

import torch

from steersman.server.auth.library_view import LibraryView
from steersman.server.auth.permissions import OPEN
from steersman.server.chat.field import SteeringField
from steersman.server.chat.in_flight import InFlight
from steersman.server.chat.resolve import Resolved, resolve
from steersman.server.chat.steered_request import SteeringContext
from steersman.server.doses import Doses
from steersman.server.presets.view import PresetView
from steersman.server.state import Steersman
from steersman.steering.plan import Limits, Settings
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.library.library import Library
from steersman.vectors.library.presets import PresetStore
from steersman.vectors.tensors import HookPoint

LAYERS, HIDDEN = 4, 2
MEDIANS = {f"resid_post.{layer}": 10.0 * (layer + 1) for layer in range(LAYERS)}
ONE = torch.tensor([6.0, 8.0])
VECTORS = {
    "plain": SteeringVector({HookPoint("resid_post", 1): ONE}, coefficient=0.5, positions="all"),
    "other": SteeringVector({HookPoint("resid_post", 2): ONE}),
    "steps": SteeringVector({HookPoint("resid_post", 1): torch.stack([ONE, 2 * ONE, ONE])}),
    "uneven": SteeringVector(
        {
            HookPoint("resid_post", 1): torch.ones(3, HIDDEN),
            HookPoint("resid_post", 2): torch.ones(2, HIDDEN),
        }
    ),
    "single": SteeringVector({HookPoint("resid_post", 1): ONE[None]}),
    "mixed": SteeringVector(
        {HookPoint("resid_post", 1): ONE[None], HookPoint("resid_post", 2): ONE}
    ),
    "ranged": SteeringVector({HookPoint("resid_post", 1): ONE}, safe_range=(-1.0, 2.0)),
    "long": SteeringVector({HookPoint("resid_post", 1): torch.ones(9, HIDDEN)}),
}
"""`plain` has a coefficient and positions of its own; `long` has more steps than are allowed."""


def library(root: Path) -> Library:
    """A library of `VECTORS`."""
    made = Library(root, hidden_size=HIDDEN, num_layers=LAYERS)
    for name, vector in VECTORS.items():
        made.add(write_vector(vector), name)
    return made


def presets_of(library: Library, layers: int = 8) -> PresetView:
    """The presets beside `library`, as everybody sees them on a server without keys."""
    settings = Settings(library=str(library.root))
    context = SteeringContext(
        LibraryView(library, OPEN, settings.max_library_vectors),
        Limits.of(settings, layers),
        Doses(None, None),
        False,
        InFlight(),
        settings.load_timeout,
    )
    return PresetView(PresetStore(library.root), OPEN, context)


def steersman(
    root: Path,
    dose: float | None = None,
    total: float | None = None,
    *,
    composes: bool = True,
    **settings: Any,
) -> Steersman:
    """What the routes share, on a server that allows doses up to `dose`, and `total` in sum."""
    set_ = Settings(library=str(root), max_steps=8, max_coefficient=100.0, **settings)
    return Steersman(
        settings=set_,
        limits=Limits.of(set_, LAYERS),
        whole_library=library(root),
        all_doses=Doses(MEDIANS, dose, total),
        model={"id": "m", "num_layers": LAYERS, "hidden_size": HIDDEN, "fingerprint": "f",
               "sites": ["resid_post"], "aliases": [], "composes": composes, "captures": True},
        version="1",
    )  # fmt: skip


def ask(app: Steersman, field: Any) -> Resolved:
    """What a request with this `steering` would carry."""
    enforce = app.settings.enforce_safe_range
    return resolve(
        SteeringField.read(field), "r", app.library_for(OPEN), app.limits, app.all_doses, enforce
    )
