"""Our routes behind the gate, over a library, with an engine that is made up; and calls to them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from steersman.server import error_response
from steersman.server.auth.keyfile import Keys
from steersman.server.auth.permissions import OPEN
from steersman.server.chat.steered_request import resolved
from steersman.server.dependencies import CallersPresets
from steersman.server.doses import Doses
from steersman.server.extraction import api as extract_api
from steersman.server.library import inspect as inspect_api
from steersman.server.library import routes as vectors_api
from steersman.server.middleware.auth import Authenticate
from steersman.server.presets import routes as presets_api
from steersman.server.presets.choose import choose
from steersman.server.state import Steersman
from steersman.steering.plan import Limits, PlanInvalid, Settings
from steersman.vectors.errors import SteersmanError
from steersman.vectors.file.format import SteeringVector, write_vector
from steersman.vectors.library.library import Library
from steersman.vectors.tensors import HookPoint
from tests.support.server.extraction import HIDDEN, LAYERS, Engine, make_context
from tests.support.server.keys import bearer

VECTORS = "/v1/steering/vectors"
PRESETS = "/v1/steering/presets"
JOBS = "/v1/steering/jobs"
MEDIANS = {f"resid_post.{layer}": 10.0 for layer in range(LAYERS)}


class LensEngine(Engine):
    """With logits that are the same whatever is asked."""

    async def collective_rpc(self, method: str, args: tuple[list[bytes], int]) -> list[Any]:
        tokens = [{"top": [(7, 1.5)], "bottom": [(9, -2.0)]} for _ in args[0]]
        return [{"norm": "model.norm", "tokens": tokens}]


def content(seed: int, size: float = 1.0, **fields: Any) -> bytes:
    """A file whose tensors, of length `size`, go by `seed`."""
    row = torch.randn(HIDDEN, generator=torch.Generator().manual_seed(seed))
    return write_vector(
        SteeringVector({HookPoint("resid_post", 1): size * row / row.norm()}, **fields)
    )


class Site:
    """One server."""

    def __init__(self, root: Path, keys: Path | None, **settings: Any) -> None:
        """`keys`: the keys file."""
        set_ = Settings(library=str(root), **settings)
        self.state = Steersman(
            settings=set_,
            limits=Limits.of(set_, LAYERS),
            whole_library=Library(root, hidden_size=HIDDEN, num_layers=LAYERS),
            all_doses=Doses(MEDIANS, set_.max_relative_dose),
            model={"id": "m", "num_layers": LAYERS, "hidden_size": HIDDEN, "fingerprint": "f",
                   "sites": ["resid_post"], "aliases": [], "composes": True, "captures": True},
            version="1",
        )  # fmt: skip
        self.engine = LensEngine()
        extraction = make_context(root, self.engine)
        tokenizer = extraction.tokenizer
        tokenizer.decode = lambda ids: f"<{ids[0]}>"
        self.state.extraction = replace(
            extraction, library=self.state.library_for(OPEN), on_change=self.state.on_change
        )
        app = FastAPI()
        error_response.install(app)
        app.add_api_route("/v1/completions", _steer, methods=["POST"])
        for module in (extract_api, inspect_api, presets_api, vectors_api):
            app.include_router(module.build_router())
        app.state.steersman = self.state
        self.keys = None if keys is None else Keys(keys)
        app.add_middleware(Authenticate, keys=self.keys)
        self.app = app
        self.client = TestClient(app, raise_server_exceptions=False)

    def call(self, who: str, method: str, path: str, **more: Any) -> Any:
        """An answer to `who`."""
        return self.client.request(method, path, headers=bearer(who), **more)

    def upload(self, who: str, data: bytes, name: str | None = None) -> Any:
        """The answer to an upload."""
        form = {} if name is None else {"name": name}
        return self.call(who, "POST", VECTORS, files={"file": ("v", data)}, data=form)

    def steer(self, who: str, field: Any) -> Any:
        """The answer to a steered request: the receipt without counts, or the error."""
        return self.ask(who, steering=field)

    def ask(self, who: str, **body: Any) -> Any:
        """The answer to a request with this body: the model that vLLM is asked for, what says how
        it is steered, and the receipt without counts; or the error."""
        return self.call(who, "POST", "/v1/completions", json=body)

    def names(self, who: str) -> list[str]:
        """All that the list shows to `who`."""
        return [v["id"] for v in self.call(who, "GET", f"{VECTORS}?limit=1000").json()["data"]]


async def _steer(request: Request, presets: CallersPresets) -> Any:
    said = json.loads(await request.body())
    chosen = await choose(
        said.get("steering"),
        said.get("model"),
        given="steering" in said,
        served={"m", "adapter:1"},
        presets=presets,
    )
    answer = {"model": chosen.model, **chosen.origin._asdict(), "steering": None}
    if chosen.steering is not None:
        try:
            answer["steering"] = resolved(chosen.context, chosen.steering).draft
        except (PlanInvalid, SteersmanError) as error:
            raise chosen.explained(error) from None
    return answer
