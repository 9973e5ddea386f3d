"""What `GET /v1/steering/capabilities` says, and who is in flight."""

from pathlib import Path

from prometheus_client import REGISTRY

from steersman.server.auth.permissions import OPEN
from steersman.server.library.schemas import Capabilities
from steersman.steering.plan import BankKey
from tests.support.server.make import steersman


def test_capabilities(tmp_path: Path) -> None:
    said = Capabilities(**steersman(tmp_path, max_dynamic=3).capabilities_for(OPEN))
    assert said.schedules == ["constant", "start", "diminishing", "list"]
    assert said.dynamic == {"max_vectors": 8, "kl": ["mean", "sum"]}
    assert (
        Capabilities(**steersman(tmp_path, composes=False).capabilities_for(OPEN)).dynamic is None
    )
    limits = {
        key: said.limits[key] for key in ("max_steps", "max_schedule", "max_dynamic_requests")
    }
    assert limits == {"max_steps": 8, "max_schedule": 4096, "max_dynamic_requests": 3}


def test_companions_are_counted_in_and_out(tmp_path: Path) -> None:
    app = steersman(tmp_path).in_flight
    rows = frozenset({BankKey("d", "resid_post", 1, 0)})
    found = []
    for call, companions in ((app.enter, 3), (app.enter, 4), (app.leave, 3), (app.leave, 4)):
        call(rows, companions)
        found.append(REGISTRY.get_sample_value("steering_companion_streams"))
    assert found == [3, 7, 4, 0]
