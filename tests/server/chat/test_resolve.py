"""From a request to a plan: which vectors of the library may be used."""

from pathlib import Path

import pytest
import torch

from steersman.server.auth.library_view import LibraryView
from steersman.server.auth.permissions import OPEN
from steersman.server.chat.field import SteeringField
from steersman.server.chat.resolve import Resolved, resolve
from steersman.server.doses import Doses
from steersman.steering.plan import Limits
from steersman.steering.plan.settings import Settings
from steersman.vectors.errors import VectorInvalid
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.library.library import Library
from steersman.vectors.tensors import HookPoint


def resolved(root: Path, layers: int, hidden: int) -> Resolved:
    """The vector `old`, asked for on a server whose model has these sizes."""
    library = LibraryView(Library(root, hidden_size=hidden, num_layers=layers), OPEN, 10)
    return resolve(
        SteeringField.model_validate({"vectors": {"old": 1.0}}),
        "receipt",
        library,
        Limits.of(Settings(), num_layers=layers),
        Doses(None, None),
    )


@pytest.mark.parametrize(("layers", "hidden"), [(4, 16), (3, 8)])
def test_a_vector_of_the_model_served_before_is_refused(
    tmp_path: Path, layers: int, hidden: int
) -> None:
    Library(tmp_path, hidden_size=8, num_layers=4).add(
        write_vector(SteeringVector({HookPoint("resid_post", 3): torch.ones(8)})), "old"
    )
    assert resolved(tmp_path, 4, 8).plan.vectors[0].terms == (HookPoint("resid_post", 3),)
    with pytest.raises(VectorInvalid) as refused:
        resolved(tmp_path, layers, hidden)
    assert refused.value.param == "steering.vectors[0].id"
