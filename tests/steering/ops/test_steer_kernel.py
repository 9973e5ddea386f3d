"""The kernel for terms that read the stream: its machine code, and what a launch asks of Python."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import triton

import steersman.steering.ops.operations
import steersman.steering.ops.steer_kernel
from steersman.steering.ops.kernel import WIDEST_BLOCK
from steersman.steering.ops.steer_kernel import WIDEST_PART, steer_block, steer_rows
from steersman.steering.ops.terms import SCALARS
from tests.steering.ops.test_kernel import NoTensorWork


def machine_code(capability: int, dtype: str, terms: int, *, split: bool) -> Any:
    """The kernel as Triton compiles it for a GPU of this compute capability. Needs no GPU."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    whole = triton.next_power_of_2(terms)
    constants = {
        "SPLIT": split,
        "TERMS": terms,
        "TILE": min(whole, 8),
        "ALL": whole,
        "BLOCK": WIDEST_BLOCK,
        "PART": WIDEST_PART,
        "column_stride": 1,
        "other_column_stride": 1,
    }
    pointers = {"hidden": dtype, "other": dtype, "index": "i32", "reads": "i32"}
    pointers |= dict.fromkeys(("bank", "coefficient", "scalars", "token_gain"), "fp32")
    pointers["token_entry"] = "i32"
    signature = {
        name: "constexpr"
        if name in constants
        else f"*{pointers[name]}"
        if name in pointers
        else "i32"
        for name in steer_block.arg_names
    }
    aligned = [n for n, kind in enumerate(signature.values()) if kind.startswith("*")]
    source = ASTSource(
        steer_block,
        signature,
        {(list(signature).index(name),): value for name, value in constants.items()},
        {(n,): [["tt.divisibility", 16]] for n in aligned},
    )
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_warps": 4})


@pytest.mark.parametrize(
    ("capability", "dtype", "terms", "split"),
    [(80, "bf16", 8, True), (90, "fp32", 1, False), (90, "fp16", 11, True), (100, "bf16", 8, True)],
)
def test_the_machine_code(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capability: int,
    dtype: str,
    terms: int,
    split: bool,
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    code = machine_code(capability, dtype, terms, split=split)
    assert code.asm["cubin"]
    ptx = code.asm["ptx"]
    # The only thing read before an unsteered token's program leaves is its entry.
    reads = [found.start() for found in re.finditer(r"ld\.global", ptx)]
    (leaves, *_) = [found.start() for found in re.finditer(r"\bbra\b", ptx)]
    assert reads[0] < leaves < reads[1]
    # Registers suffice.
    assert ".local" not in ptx


@pytest.mark.parametrize(("tokens", "width"), [(1, 32), (512, 2880), (70000, 64)])
def test_one_launch_whose_grid_knows_shapes_alone(
    monkeypatch: pytest.MonkeyPatch, tokens: int, width: int
) -> None:
    """Tensors of the meta device have shapes and no content."""
    grids = []

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *_, **options: grids.append((grid, options["BLOCK"]))

    monkeypatch.setattr(steersman.steering.ops.steer_kernel, "steer_block", Kernel())
    with torch.device("meta"):
        hidden, other = (torch.empty(tokens, width, dtype=torch.bfloat16) for _ in range(2))
        bank, coefficient = torch.empty(9, width), torch.empty(4, 8)
        index, reads = (torch.empty(4, 8, dtype=torch.int32) for _ in range(2))
        scalars = torch.empty(4, 8, SCALARS)
        token_entry = torch.empty(tokens + 5, dtype=torch.int32)
        token_gain = torch.empty(tokens + 5, 8)
    with NoTensorWork():
        steer_rows(hidden, other, bank, index, reads, coefficient, scalars, token_entry, token_gain)
    (((tokens_axis, blocks), block),) = grids
    assert tokens_axis == tokens
    assert (blocks - 1) * block < width <= blocks * block


def test_torch_dispatches_cuda_tensors_to_it() -> None:
    registered = torch._C._dispatch_has_kernel_for_dispatch_key
    assert registered("steersman::steer", "CUDA")
    assert registered("steersman::steer", "Meta")
