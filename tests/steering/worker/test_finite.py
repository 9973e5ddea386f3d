"""Which requests of a step are not finite, whenever the device gets to say so."""

import torch

from steersman.steering.worker.finite import FiniteCheck, Watched


def test_whose_row_is_which_is_as_it_was_in_the_step() -> None:
    """vLLM waits for an asynchronous step when the next one has changed the runner's map."""
    logits = torch.zeros(3, 5)
    logits[1, 2] = torch.inf
    rows = {"x": 0, "r": 1, "s": 2}
    check = FiniteCheck([Watched("r", 1, 1), Watched("s", 2, 1)], torch.zeros(3, 4), rows, logits)
    rows.clear()
    rows["s"] = 1
    assert check.ill() == ["r"]
