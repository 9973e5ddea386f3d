"""Makes tiny models and holds vLLM with Steersman to Hugging Face.

`python -m tests.support.models.run FOLDER` reads names of families, one a line, and leaves
what it found in FOLDER/NAME/found.json: what `judge` says, or `error`, `stage` and `place` (file
and line in vLLM) if a stage failed.

vLLM is imported once, then every stage of every model runs in a fork of its own: vLLM's engine
changes Hugging Face's classes in its process.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.support.models.families import FAMILIES
from tests.support.models.family import Family

ENVIRONMENT = {
    "VLLM_PLUGINS": "steersman",
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


def main(folder: Path) -> None:
    os.environ.update(ENVIRONMENT)
    import transformers  # noqa: F401
    from vllm.model_executor.models import registry

    from tests.support.models.judge import judge
    from tests.support.models.plain import plain
    from tests.support.models.steer import steer
    from tests.support.models.weights import make

    # vLLM looks at each model's class in a fresh process, to keep CUDA out of its own. No GPU here.
    vars(registry)["_run_in_subprocess"] = lambda look: look()
    families = {family.name: family for family in FAMILIES}
    for line in sys.stdin:
        family = families[line.rstrip("\n")]
        place = folder / family.name
        place.mkdir(parents=True)
        for stage in (make, plain) if family.vllm_must_fail else (make, steer, judge):
            if not run(stage, family, place):
                break
        print(f"DONE {family.name}", flush=True)


def run(stage: Callable[[Family, Path], None], family: Family, place: Path) -> bool:
    """Whether `stage` ended well, in a process of its own."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    code = 1
    try:
        stage(family, place)
        code = 0
    except BaseException as error:  # noqa: BLE001  (the report is the child's only way out)
        traceback.print_exc()
        found = {
            "stage": stage.__name__,
            "error": f"{type(error).__name__}: {error}",
            "place": place_in_vllm(error),
        }
        (place / "found.json").write_text(json.dumps(found))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def place_in_vllm(error: BaseException) -> str:
    """Where the error went through vLLM last, as "vllm/....py:123"."""
    places = [
        f"vllm/{frame.filename.partition('/site-packages/vllm/')[2]}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if "/site-packages/vllm/" in frame.filename
    ]
    return places[-1] if places else ""


if __name__ == "__main__":
    main(Path(sys.argv[1]))
