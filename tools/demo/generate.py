"""Steered generation and perplexity with Hugging Face: slow, plain, and independent of vLLM."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from steersman.vectors.demo.activations import LoadedModel

MAX_NEW_TOKENS = 48


class Job(NamedTuple):
    """One prompt, and what to add to the output of which block while it is answered."""

    prompt: str
    added: Mapping[int, torch.Tensor]


@torch.no_grad()
def answers(loaded: LoadedModel, jobs: Sequence[Job], batch_size: int = 48) -> list[str]:
    """Greedy answers of at most `MAX_NEW_TOKENS` tokens, in the order of `jobs`."""
    texts: list[str] = []
    for start in range(0, len(jobs), batch_size):
        batch = jobs[start : start + batch_size]
        prompts = [loaded.chat_ids(job.prompt) for job in batch]
        width = max(map(len, prompts))
        # Padding goes to the left, so that the last column is every prompt's last token.
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros(len(batch), width, dtype=torch.long)
        for i, prompt in enumerate(prompts):
            ids[i, width - len(prompt) :] = torch.tensor(prompt)
            mask[i, width - len(prompt) :] = 1
        with _steered(loaded, batch):
            out = loaded.model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=MAX_NEW_TOKENS, do_sample=False
            )
        texts += loaded.tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
    return texts


@torch.no_grad()
def log_likelihoods(
    loaded: LoadedModel, pairs: Sequence[tuple[str, str]], batch_size: int = 48
) -> list[tuple[float, int]]:
    """For each (prompt, answer): the unsteered log-likelihood of the answer, and its tokens."""
    found: list[tuple[float, int]] = []
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        prompts = [loaded.chat_ids(prompt) for prompt, _ in batch]
        replies = [loaded.text_ids(answer) for _, answer in batch]
        width = max(len(p) + len(r) for p, r in zip(prompts, replies, strict=True))
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros(len(batch), width, dtype=torch.long)
        for i, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
            ids[i, : len(prompt) + len(reply)] = torch.tensor(prompt + reply)
            mask[i, : len(prompt) + len(reply)] = 1
        hidden = loaded.model.model(input_ids=ids, attention_mask=mask).last_hidden_state
        for i, (prompt, reply) in enumerate(zip(prompts, replies, strict=True)):
            if not reply:
                found.append((0.0, 0))
                continue
            # The head on the answer's positions only: it is a fifth of the model.
            at = hidden[i, len(prompt) - 1 : len(prompt) + len(reply) - 1]
            logs = torch.log_softmax(loaded.model.lm_head(at).float(), dim=-1)
            total = logs.gather(1, torch.tensor(reply)[:, None]).sum()
            found.append((float(total), len(reply)))
    return found


@contextmanager
def _steered(loaded: LoadedModel, batch: Sequence[Job]) -> Iterator[None]:
    hidden_size = int(loaded.model.config.hidden_size)

    def adder(layer: int) -> Any:
        zero = torch.zeros(hidden_size)
        added = torch.stack([job.added.get(layer, zero) for job in batch])

        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            states = output[0] if isinstance(output, tuple) else output
            # The last column: the prompt's last token at first, then each new token.
            states[:, -1] += added

        return hook

    layers = sorted({layer for job in batch for layer in job.added})
    handles = [loaded.blocks[layer].register_forward_hook(adder(layer)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
