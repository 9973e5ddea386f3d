"""Seam: the dummy runs of both model runners (`_dummy_run` of V1 and V2).

vLLM makes them to profile, to warm up and to keep idle replicas in step; they are nobody's, so none
finds a token marked. Our probe is one of them.
"""

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor

from steersman.steering.worker.batch import Steps


def attach(runner: Any, steps: Steps) -> Callable[[int], Tensor | None]:
    """Have `runner`'s dummy runs find no token marked. Returns `Attached.probe`, which is the one
    that leaves the marks as they are."""
    dummy_run = runner._dummy_run

    @functools.wraps(dummy_run)
    def dummy(*args: Any, **kwargs: Any) -> Any:
        steps.clear_marks()
        return dummy_run(*args, **kwargs)

    def probe(tokens: int) -> Tensor | None:
        hidden: Tensor | None = dummy_run(tokens, skip_eplb=True)[0]
        return hidden

    runner._dummy_run = dummy
    return probe
