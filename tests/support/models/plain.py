"""Stage two where vLLM itself cannot run a model: vLLM alone tries, and its error is what is said.

Steersman must have no part in that error, so vLLM is told not to load it.
"""

import json
import os
import sys
from pathlib import Path

from vllm.model_executor.models import registry

from tests.support.models.family import Family
from tests.support.models.steer import ask, start


def plain(family: Family, place: Path) -> None:
    """Raises vLLM's error; writes found.json without one if there was none."""
    os.environ["VLLM_PLUGINS"] = ""
    # vLLM logs why a model's class cannot be imported and raises something vaguer.
    vars(registry)["_try_inspect_model_cls"] = lambda _name, model: model.inspect_model_cls()
    try:
        ask(start(family, place), [None])
    finally:
        assert "steersman.steering.vllm.worker.worker" not in sys.modules, "Steersman was there"
    (place / "found.json").write_text(json.dumps({"stage": "plain"}))
