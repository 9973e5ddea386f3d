"""What a block's output is, and whether its branches join the residual stream unchanged.

Neither follows from the module alone: a branch may be scaled or normed before it joins, and a
second tensor in a block's output may be half of the stream or a leftover. So after loading the
model runs a few times, each time with a change at another place, and the results are compared.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from steersman.steering.plan.errors import NotInstrumentable
from steersman.steering.worker.blocks import Block
from steersman.steering.worker.hooks import input_parts, modules_of, stream_part, stream_parts
from steersman.vectors.tensors import HookPoint

Forward = Callable[[int], Tensor]

SUM_TOLERANCE = 0.25
"""Relative error at the last layer: two orders of one sum may round differently in every layer."""
BRANCH_TOLERANCE = 0.02
"""Relative error within one block: bfloat16 rounds by less than 0.005, and a factor of 1.03 must be
found."""
LOUD = 4.0
"""The probe of a branch is this many times as long as the stream, so rounding is negligible."""


def probe_blocks(
    blocks: list[Block], forward: Forward, hidden: int, max_tokens: int
) -> list[Block]:
    """`blocks` with `split` set, and with only those branches that join the stream unchanged.

    `forward(n)` runs the model on n <= `max_tokens` tokens that do not see each other, and returns
    the final hidden states [n, ...]; `hidden` is the stream's width. Raises `NotInstrumentable` if
    a block does not return the residual stream, because nothing could then be steered rightly.
    """
    width = max(1, max_tokens // 2)
    found: list[Block] = []
    for start in range(0, len(blocks), width):
        found += _ProbedBlocks(blocks[start : start + width], forward, hidden).result()
    return found


class _Addition(NamedTuple):
    part: int
    """Index of the output's tensor to which the vector is added."""
    token: int
    vector: Tensor


class _ProbedBlocks:
    """A group of blocks small enough for one pass: block n changes only tokens n and n +
    len(blocks)."""

    def __init__(self, blocks: list[Block], forward: Forward, hidden: int) -> None:
        self.blocks, self.forward, self.hidden = blocks, forward, hidden
        self.outputs: dict[HookPoint, list[Tensor]] = defaultdict(list)
        self.final = self._run({})
        self.plain = self.outputs
        for block in blocks:
            _check_outputs(block, self.plain[HookPoint("resid_post", block.layer)], hidden)
        self.probes = [self._probe(block) for block in blocks]

    def result(self) -> list[Block]:
        first, second = self._moved(0), self._moved(1)
        found = []
        for n, block in enumerate(self.blocks):
            split = bool(second[n].any())
            if not first[n].any() or not first[n].isfinite().all():
                raise NotInstrumentable(f"what is added to the output of {_name(block)} is lost")
            if split and (second[n] - first[n]).norm() > SUM_TOLERANCE * first[n].norm():
                raise NotInstrumentable(f"the sum that {_name(block)} returns is not the stream")
            found.append(replace(block, split=split))
        return self._with_true_branches(found)

    def _moved(self, part: int) -> Tensor:
        """For each block, how far its token's final hidden state moves when `part` of the block's
        output does."""
        additions = {
            HookPoint("resid_post", block.layer): _Addition(part, n, probe)
            for n, (block, probe) in enumerate(zip(self.blocks, self.probes, strict=True))
        }
        return self._run(additions).float() - self.final.float()

    def _with_true_branches(self, blocks: list[Block]) -> list[Block]:
        """Keep the branches that join the stream unchanged. In the probe, each block's first token
        has its attention's output changed, the second its MLP's. The stream must change as the
        branch did, and after a change of attention also as the MLP's output did in response."""
        additions = {
            HookPoint(site, block.layer): _Addition(0, n + second * len(blocks), LOUD * probe)
            for n, (block, probe) in enumerate(zip(blocks, self.probes, strict=True))
            for second, site in enumerate(("attn_out", "mlp_out"))
        }
        self._run(additions)
        found = []
        for block, probe in zip(blocks, self.probes, strict=True):
            stream = self._gain("resid_post", block, slice(None if block.split else 1))
            mlp = self._gain("mlp_out", block, slice(1))
            mlp[1] = 0
            scale = LOUD * probe.norm()
            errors = (stream - mlp - LOUD * probe).norm(dim=-1) / scale
            # The MLP of a parallel block does not read its attention's output.
            alone = (errors <= BRANCH_TOLERANCE) & (mlp.norm(dim=-1) <= BRANCH_TOLERANCE * scale)
            sites = ("attn_out", "mlp_out")
            # A module that several blocks share runs more than once, and counts for none of them.
            own = [len(self.plain[HookPoint(site, block.layer)]) == 1 for site in sites]
            joins = [
                error <= BRANCH_TOLERANCE and one
                for error, one in zip(errors.tolist(), own, strict=True)
            ]
            modules = [
                module if there else None
                for module, there in zip((block.attn, block.mlp), joins, strict=True)
            ]
            aliases = frozenset(
                site
                for site, module, one in zip(sites, modules, alone.tolist(), strict=True)
                if module is not None and one
            )
            found.append(replace(block, attn=modules[0], mlp=modules[1], aliases=aliases))
        return self._with_mids(found)

    def _with_mids(self, blocks: list[Block]) -> list[Block]:
        """Set `mid` where what a module gets between attention and MLP is the stream there: what
        the MLP returns must make the block's output of it, and so must what is added to it."""
        mids = self._between(self.blocks)
        additions = {
            block.layer: LOUD * probe for block, probe in zip(blocks, self.probes, strict=True)
        }
        with ExitStack() as stack:
            for n, (block, mid) in enumerate(zip(blocks, mids, strict=True)):
                if mid is not None:
                    adding = _adding(mid.module.forward, n, additions[block.layer])
                    stack.enter_context(_replaced(mid.module, adding))
            self._run({})
        found = []
        for block, mid in zip(blocks, mids, strict=True):
            if mid is None or not (block.split or block.mlp):
                found.append(block)
                continue
            # Of two halves the second is the stream before the last branch, even one that is normed
            # before it joins; of a whole stream the MLP's output has to be taken away.
            at = HookPoint("resid_post", block.layer)
            if block.split:
                through = self._gain("resid_post", block, slice(1, None))[0]
                before = self.plain[at][0][1:].sum(0)
            else:
                mlp = self.plain[HookPoint("mlp_out", block.layer)][0][0]
                through = self._gain("resid_post", block, slice(1))[0]
                through = through - self._gain("mlp_out", block, slice(1))[0]
                before = self.plain[at][0][0] - mlp
            probe = additions[block.layer]
            stays = float((through - probe).norm() / probe.norm()) <= BRANCH_TOLERANCE
            whole = float((before - mid.value).norm() / before.norm()) <= BRANCH_TOLERANCE
            found.append(replace(block, mid=mid.module) if stays and whole else block)
        return found

    def _between(self, blocks: list[Block]) -> list["_Between | None"]:
        """For each block, the last of its own modules that gets a stream after attention and before
        the MLP, if there is one and it runs once."""
        calls: dict[int, list[_Between]] = defaultdict(list)
        shape = (2 * len(blocks), self.hidden)

        def noting(block: Block, n: int, module: nn.Module, forward: Any) -> Any:
            def noted(*args: Any, **kwargs: Any) -> Any:
                large = [x for x in args if isinstance(x, Tensor) and x.dim() > 1]
                parts = [x for x in map(_as_stream, large) if x is not None and x.shape == shape]
                value = None
                # `input_parts` takes the first two.
                alone = 1 <= len(parts) <= 2 and len(parts) == len(large)
                if alone and module not in (block.attn, block.mlp):
                    tokens = [n, n + len(blocks)]
                    value = torch.stack([part[tokens].float() for part in parts]).sum(0)
                calls[block.layer].append(_Between(module, value))
                return forward(*args, **kwargs)

            return noted

        with ExitStack() as stack:
            for n, block in enumerate(blocks):
                for child in block.module.children():
                    noted = noting(block, n, child, child.forward)
                    stack.enter_context(_replaced(child, noted))
            self._run({})
        return [_last_between(block, calls[block.layer]) for block in blocks]

    def _gain(self, site: str, block: Block, parts: slice) -> Tensor:
        """Change of the value at `site` of `block` from the plain run, at the block's two tokens:
        [2, hidden]."""
        after, before = (
            self.outputs[HookPoint(site, block.layer)],
            self.plain[HookPoint(site, block.layer)],
        )
        if not before:
            return torch.zeros_like(self.plain[HookPoint("resid_post", block.layer)][0][0])
        return (after[0] - before[0])[parts].sum(0)

    def _probe(self, block: Block) -> Tensor:
        """A random vector [hidden] as long as the stream at the block's first token."""
        stream = self.plain[HookPoint("resid_post", block.layer)][0].sum(0)[0]
        generator = torch.Generator().manual_seed(block.layer)
        random = torch.randn(len(stream), generator=generator).to(stream.device)
        probe: Tensor = random * (stream.norm().clamp(min=1.0) / random.norm())
        return probe

    def _run(self, additions: Mapping[HookPoint, _Addition]) -> Tensor:
        """Run one pass with `additions`. For each call of a site's module, `outputs` gets the
        tensors of its output at the two tokens of its block: float32 [parts, 2, hidden]."""
        self.outputs = defaultdict(list)
        count = 2 * len(self.blocks)

        def look(key: HookPoint, tokens: list[int], output: Any) -> None:
            try:
                parts = stream_parts(output)
            except TypeError:
                return
            if len(parts[0]) != count:
                # A branch is not a site then; for the stream there is no other way.
                if key.site == "resid_post":
                    raise NotInstrumentable(
                        f"block {key.layer} has {len(parts[0])} of a step's {count} tokens "
                        "(sequence parallel); drop --enable-expert-parallel or --enable-hc-sp, or "
                        "use --tensor-parallel-size 1"
                    )
                return
            if key in additions:
                part, token, vector = additions[key]
                if part < len(parts):
                    parts[part][token] += vector.to(parts[part].dtype)
            self.outputs[key].append(torch.stack([part[tokens].float() for part in parts]))

        with ExitStack() as stack, torch.inference_mode():
            for n, block in enumerate(self.blocks):
                for site, module in modules_of(block).items():
                    if module is not None:
                        tokens, key = [n, n + len(self.blocks)], HookPoint(site, block.layer)
                        stack.enter_context(_watched(module, key, tokens, look))
            return self.forward(count).clone()


class _Between(NamedTuple):
    """A call of one of a block's own modules."""

    module: nn.Module
    value: Any
    """What it got, at the two tokens of the block: float32 [2, hidden]; None if that was no
    stream."""


def _last_between(block: Block, calls: list[_Between]) -> _Between | None:
    modules = [call.module for call in calls]
    if modules.count(block.attn) != 1 or modules.count(block.mlp) != 1:  # type: ignore[arg-type]
        return None
    first, last = modules.index(block.attn), modules.index(block.mlp)  # type: ignore[arg-type]
    between = [call for call in calls[first + 1 : last] if call.value is not None]
    if not between or modules.count(between[-1].module) != 1:
        return None
    return between[-1]


def _as_stream(value: Any) -> Tensor | None:
    try:
        return stream_part(value) if isinstance(value, Tensor) else None
    except TypeError:
        return None


def _adding(forward: Any, token: int, vector: Tensor) -> Any:
    """`forward`, with `vector` added to the last part of the stream that it gets, at one token."""

    def added(*args: Any, **kwargs: Any) -> Any:
        part = input_parts(args).target()
        part[token] += vector.to(part.dtype)
        return forward(*args, **kwargs)

    return added


@contextmanager
def _replaced(module: nn.Module, forward: Any) -> Iterator[None]:
    """The module runs `forward` in here."""
    kept, own = module.forward, "forward" in vars(module)
    module.forward = forward
    try:
        yield
    finally:
        if own:
            module.forward = kept
        else:
            del module.forward


@contextmanager
def _watched(
    module: nn.Module,
    key: HookPoint,
    tokens: list[int],
    look: Callable[[HookPoint, list[int], Any], None],
) -> Iterator[None]:
    """Call `look(key, tokens, output)` after each forward of `module`."""
    forward = module.forward

    def watched(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        look(key, tokens, output)
        return output

    with _replaced(module, watched):
        yield


def _check_outputs(block: Block, outputs: list[Tensor], hidden: int) -> None:
    if len(outputs) != 1:
        raise NotInstrumentable(
            f"{_name(block)} must return one residual stream [tokens, hidden] in a pass, "
            f"whole or in two parts, and returned {len(outputs)}"
        )
    if outputs[0].shape[-1] != hidden:
        raise NotInstrumentable(
            f"{_name(block)} returned a stream {outputs[0].shape[-1]} wide, not {hidden}"
        )


def _name(block: Block) -> str:
    return f"block {block.layer} ({type(block.module).__name__})"
