"""What a receipt must say, worked out from what was asked and from the answer's own usage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer: of its prompt, of those from the prefix cache, and new ones."""

    prompt: int
    completion: int
    cached: int = 0

    @classmethod
    def read(cls, usage: Body) -> Usage:
        """Out of the `usage` of a chat, a completion (`prompt_tokens`) or a response
        (`input_tokens`)."""
        kind = "prompt" if "prompt_tokens" in usage else "input"
        new = usage["completion_tokens" if kind == "prompt" else "output_tokens"]
        details = usage.get(f"{kind}_tokens_details") or {}
        return cls(usage[f"{kind}_tokens"], new, details.get("cached_tokens") or 0)


def steered_tokens(positions: str | Body, usage: Usage) -> int:
    """How many tokens a vector was added to, in one answer to one prompt.

    The engine computes the tokens `cached` <= t < prompt + completion - 1: the last new token is
    sampled and never fed back.
    """
    end = usage.prompt + usage.completion - 1
    start, stop = _interval(positions, usage.prompt, end)
    return max(0, min(stop, end) - max(start, usage.cached))


def _interval(positions: str | Body, prompt: int, end: int) -> tuple[int, int]:
    match positions:
        case "generation":
            return prompt - 1, end
        case "after_prompt":
            return prompt, end
        case "prompt":
            return 0, prompt
        case "all":
            return 0, end
        case {"start": int(start), "stop": int(stop)}:
            return tuple(n + prompt if n < 0 else n for n in (start, stop))  # type: ignore[return-value]
    raise ValueError(f"no positions: {positions!r}")
