"""The logit lens from a checkpoint's weights alone, for Llama-shaped models.

Written from the definition; it must never import the product it is there to judge.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor


def lens(model_dir: Path, direction: Tensor) -> Tensor:
    """Logits, float64 [vocabulary], of a stream that is `direction`, [hidden], behind the last
    block: its RMS norm, times the final norm's weight, times the unembedding."""
    weights = load_file(model_dir / "model.safetensors")
    # Where the unembedding is tied to the embedding, it is not stored.
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"]).double()
    vector = direction.double()
    unit = vector / vector.pow(2).mean().sqrt()
    return head @ (unit * weights["model.norm.weight"].double())


def assert_tokens(
    model_dir: Path,
    direction: Tensor,
    top: list[tuple[int, float]],
    bottom: list[tuple[int, float]],
    tolerance: float = 1e-3,
) -> None:
    """That `top` and `bottom`, (token id, logit) each, are the extremes of the lens. Of two that
    are equal within `tolerance`, either may come first."""
    logits = lens(model_dir, direction)
    for found, largest in ((top, True), (bottom, False)):
        expected = logits.topk(len(found), largest=largest)
        tokens = [token for token, _ in found]
        assert len(set(tokens)) == len(tokens)
        said = torch.tensor([logit for _, logit in found], dtype=torch.float64)
        for values in (said, logits[tokens]):
            torch.testing.assert_close(values, expected.values, rtol=0, atol=tolerance)
