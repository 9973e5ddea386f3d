"""The CUDA form of the operation: on random tables under Triton's interpreter, as the machine code
that a GPU would get, and what a launch asks of Python."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import triton
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import steersman.steering.ops.kernel
from steersman.steering.ops.addition import add
from steersman.steering.ops.kernel import TERMS_AT_ONCE, WIDEST_BLOCK, add_block, add_rows
from tests.support.steering.interpreted import Refused, interpreted

HALF = (torch.bfloat16, torch.float16)
DTYPES = (torch.float32, *HALF)
BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
NAN = float("nan")


class Case(NamedTuple):
    """Arguments of the operation, and the whole memory that `hidden` is a view of."""

    memory: Tensor
    hidden: Tensor
    bank: Tensor
    index: Tensor  # type: ignore[assignment]  # a tuple has a method of that name
    coefficient: Tensor
    token_entry: Tensor
    token_gain: Tensor

    def bits(self) -> Tensor:
        """All of `memory`, so that NaNs compare by their payload."""
        return self.memory.view(BITS[self.memory.dtype]).clone()


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Clean tables: finite everywhere. Three slots, of which the middle one is the operation's."""
    tokens, rows, terms = draw(st.integers(1, 9)), draw(st.integers(1, 5)), draw(st.integers(1, 11))
    # Around powers of two and the widest block, of which some take two, and anything small.
    edges = [64, 576, WIDEST_BLOCK - 1, WIDEST_BLOCK, WIDEST_BLOCK + 1, 2 * WIDEST_BLOCK + 5]
    width = draw(st.one_of(st.integers(1, 70), st.sampled_from(edges)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    dtype = draw(st.sampled_from(DTYPES))
    column_step, spare, offset = (
        draw(st.sampled_from([1, 1, 2])),
        draw(st.integers(0, 3)),
        draw(st.integers(0, 3)),
    )
    stride = width * column_step + spare
    memory = torch.randn(offset + tokens * stride + 7, generator=generator).to(dtype)
    hidden = memory.as_strided((tokens, width), (stride, column_step), offset)
    bank = torch.randn(1 + draw(st.integers(1, 6)), width, generator=generator)
    bank[0] = 0
    index = torch.randint(0, len(bank), (3, rows, terms), generator=generator, dtype=torch.int32)
    coefficient = torch.randn(3, rows, terms, generator=generator)
    coefficient[torch.rand(coefficient.shape, generator=generator) < 0.2] = 0.0
    index[coefficient == 0.0] *= draw(st.sampled_from([0, 1]))  # row 0, or a row at no strength
    length = tokens + draw(st.integers(0, 4))
    token_entry = torch.randint(-1, rows, (length,), generator=generator, dtype=torch.int32)
    wide = torch.rand(length, terms + draw(st.integers(0, 3)), generator=generator) * 4 - 2
    for constant in (0.0, 1.0):
        wide[torch.rand(wide.shape, generator=generator) < 0.2] = constant
    wide[torch.rand(length, generator=generator) < draw(st.sampled_from([0.3, 1.0]))] = 1.0
    token_gain = wide[: tokens + draw(st.integers(0, length - tokens)), :terms]
    return Case(memory, hidden, bank, index[1], coefficient[1], token_entry, token_gain)


def poisoned(case: Case) -> Case:
    """The same with NaN, of any payload, through all that the operation must not use or write."""
    memory = case.memory.clone()
    hidden = memory.as_strided(
        case.hidden.shape, case.hidden.stride(), case.hidden.storage_offset()
    )
    rows = case.token_entry[: len(hidden)]
    # Numbers between the NaNs stay: a NaN plus something is often that NaN, and a write unseen.
    bits = memory.view(BITS[memory.dtype])
    payload = torch.arange(len(bits)).to(bits.dtype) & 0x3F
    bits.copy_(torch.where(torch.arange(len(bits)) % 3 == 0, bits, -1 ^ payload))
    hidden[rows >= 0] = case.hidden[rows >= 0]
    used_rows = rows[rows >= 0].unique().long()
    idle = torch.ones(len(case.index), dtype=torch.bool)
    idle[used_rows] = False
    index, coefficient, wide = (
        whole(table).clone() for table in (case.index, case.coefficient, case.token_gain)
    )
    # A gain of 0 takes a term from one token, and its bank row too where no other token has it.
    row_of = rows[rows >= 0].long()
    strength = case.coefficient[row_of] * case.token_gain[: len(rows)][rows >= 0]
    bank = case.bank.clone()
    dead = torch.ones(len(bank), dtype=torch.bool)
    dead[case.index[row_of][strength != 0.0].long()] = False
    bank[dead] = NAN
    coefficient[[0, 2]] = NAN
    coefficient[1][idle] = NAN
    index[1][idle] = int(dead.nonzero()[0]) if bool(dead.any()) else 0
    token_entry = case.token_entry.clone()
    token_entry[len(hidden) :] = 0
    length, terms = case.token_gain.shape
    wide[: len(hidden)][rows < 0] = NAN
    wide[len(hidden) :] = NAN
    wide[:, terms:] = NAN
    return Case(memory, hidden, bank, index[1], coefficient[1], token_entry, wide[:length, :terms])


def whole(view: Tensor) -> Tensor:
    """The table that `view` is a part of."""
    assert view._base is not None
    return view._base


@settings(deadline=None, max_examples=150)
@given(case=cases())
def test_random_tables_and_poison_everywhere_else(case: Case) -> None:
    expected = case.hidden.clone()
    add(expected, *case[2:])
    dirty = poisoned(case)
    before = dirty.bits()
    interpreted(*dirty[1:])
    steered = case.token_entry[: len(expected)] >= 0
    found, wanted = dirty.hidden[steered].float(), expected[steered].float()
    # Float32 sums in another order, then at most one step of the dtype: sums may lie between two
    # numbers, and the interpreter cuts bfloat16 off where a GPU rounds it.
    step = 0.0 if expected.dtype == torch.float32 else torch.finfo(expected.dtype).eps
    assert bool(((found - wanted).abs() <= 2e-5 + step * wanted.abs()).all())
    # All other memory, by its bits: unsteered tokens, gaps between tokens and columns, both ends.
    after = dirty.bits()
    elsewhere = torch.ones_like(after, dtype=torch.bool)
    view = elsewhere.as_strided(
        expected.shape, dirty.hidden.stride(), dirty.hidden.storage_offset()
    )
    view[steered] = False
    assert torch.equal(after[elsewhere], before[elsewhere])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_sum_is_taken_in_float32_and_cast_once(dtype: torch.dtype) -> None:
    """A quarter is lost beside 4096 in half precision, and comes through in float32."""
    bank = torch.tensor([0.0, 4096.0, 0.25]).unsqueeze(1).repeat(1, 40)
    index = torch.tensor([[1, 2, 1]], dtype=torch.int32)
    coefficient = torch.tensor([[0.5, 1.0, -1.0]])
    hidden = torch.ones(2, 40, dtype=dtype)
    row, gain = torch.tensor([-1, 0], dtype=torch.int32), torch.tensor([[2.0, 1.0, 1.0]] * 2)
    interpreted(hidden, bank, index, coefficient, row, gain)
    assert hidden.tolist() == [[1.0] * 40, [1.25] * 40]


def test_a_vector_that_is_not_finite_shows() -> None:
    """Masking hides what is not used; what is used and broken must not look like an answer."""
    broken = [(NAN, 1.0, 1.0), (float("inf"), 2.0, 1.0), (1.0, NAN, 1.0), (1.0, 1.0, NAN)]
    for value, strength, factor in broken:
        hidden = torch.ones(1, 5)
        bank = torch.tensor([[0.0], [value]]).repeat(1, 5)
        index, row = torch.ones(1, 2, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
        coefficient, gain = torch.tensor([[0.0, strength]]), torch.tensor([[1.0, factor]])
        interpreted(hidden, bank, index, coefficient, row, gain)
        assert not bool(hidden.isfinite().any())


def test_nothing_to_do_is_no_launch() -> None:
    row = torch.zeros(3, dtype=torch.int32)
    index, coefficient = torch.ones(1, 2, dtype=torch.int32), torch.ones(1, 2)
    gain = torch.ones(3, 2)
    interpreted(torch.ones(0, 5), torch.ones(2, 5), index, coefficient, row, gain)
    hidden = torch.ones(3, 5)
    interpreted(hidden, torch.ones(2, 5), index[:, :0], coefficient[:, :0], row, gain[:, :0])
    assert bool((hidden == 1).all())


def fitting() -> dict[str, Tensor]:
    return {
        "hidden": torch.ones(3, 6),
        "bank": torch.ones(2, 6),
        "index": torch.ones(2, 4, dtype=torch.int32),
        "coefficient": torch.ones(2, 4),
        "token_entry": torch.zeros(3, dtype=torch.int32),
        "token_gain": torch.ones(3, 4),
    }


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("token_entry", torch.zeros(2, dtype=torch.int32)),
        ("bank", torch.ones(2, 5)),
        ("bank", torch.ones(2, 12)[:, ::2]),
        ("coefficient", torch.ones(2, 3)),
        ("index", torch.ones(4, 2, dtype=torch.int32).T),
        ("token_gain", torch.ones(2, 4)),
        ("token_gain", torch.ones(3, 3)),
        ("token_gain", torch.ones(3, 5)),
        ("token_gain", torch.ones(4, 3).T),
    ],
)
def test_tables_that_do_not_go_together_are_refused(name: str, wrong: Tensor) -> None:
    interpreted(**fitting())
    with pytest.raises(Refused, match="does not match bank"):
        interpreted(**fitting() | {name: wrong})


class NoTensorWork(TorchDispatchMode):
    """Raises at any operation of torch's: an allocation, a copy, a look at a value."""

    def __torch_dispatch__(self, func: Any, *_: Any, **__: Any) -> Any:
        raise AssertionError(f"{func} ran")


@pytest.mark.parametrize(("tokens", "width"), [(1, 32), (512, 2880), (16384, 16384), (70000, 64)])
def test_one_launch_whose_grid_knows_shapes_alone(
    monkeypatch: pytest.MonkeyPatch, tokens: int, width: int
) -> None:
    """Tensors of the meta device have shapes and no content."""
    grids = []

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *_, **options: grids.append((grid, options["BLOCK"]))

    monkeypatch.setattr(steersman.steering.ops.kernel, "add_block", Kernel())
    with torch.device("meta"):
        hidden, bank = torch.empty(tokens, width, dtype=torch.bfloat16), torch.empty(9, width)
        index, coefficient = torch.empty(4, 8, dtype=torch.int32), torch.empty(4, 8)
        token_entry = torch.empty(tokens + 5, dtype=torch.int32)
        token_gain = torch.empty(tokens + 5, 8)
    with NoTensorWork():
        add_rows(hidden, bank, index, coefficient, token_entry, token_gain)
    (((tokens_axis, blocks), block),) = grids
    assert tokens_axis == tokens
    assert (blocks - 1) * block < width <= blocks * block
    assert blocks <= 65535  # what CUDA allows on a second axis


def machine_code(capability: int, dtype: str, terms: int, column_stride: int = 1) -> Any:
    """The kernel as Triton compiles it for a GPU of this compute capability. Needs no GPU."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    tile = min(triton.next_power_of_2(terms), TERMS_AT_ONCE)
    constants = {"TERMS": terms, "TILE": tile, "BLOCK": WIDEST_BLOCK}
    if column_stride == 1:
        constants["column_stride"] = 1  # as a launch does with an argument that is 1
    pointers = {"hidden": dtype, "index": "i32"}
    pointers |= dict.fromkeys(("bank", "coefficient", "token_gain"), "fp32")
    signature = {
        name: "constexpr"
        if name in constants
        else f"*{pointers[name]}"
        if name in pointers
        else "i32"
        for name in add_block.arg_names
    } | {"token_entry": "*i32"}
    aligned = [n for n, kind in enumerate(signature.values()) if kind.startswith("*")]
    source = ASTSource(
        add_block,
        signature,
        {(list(signature).index(name),): value for name, value in constants.items()},
        {(n,): [["tt.divisibility", 16]] for n in aligned},
    )
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_warps": 4})


@pytest.fixture
def no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.mark.usefixtures("no_cache")
@pytest.mark.parametrize(
    ("capability", "dtype", "terms", "column_stride"),
    [
        (80, "fp32", 1, 1),
        (80, "bf16", 8, 1),
        (90, "fp16", 8, 1),
        (90, "bf16", 11, 1),
        (90, "bf16", 8, 2),
        (100, "bf16", 8, 1),
    ],
)
def test_the_machine_code(capability: int, dtype: str, terms: int, column_stride: int) -> None:
    code = machine_code(capability, dtype, terms, column_stride)
    assert code.asm["cubin"]
    ptx = code.asm["ptx"]
    # The only thing read before an unsteered token's program leaves is its row.
    reads = [found.start() for found in re.finditer(r"ld\.global", ptx)]
    (leaves, *_) = [found.start() for found in re.finditer(r"\bbra\b", ptx)]
    assert reads[0] < leaves < reads[1]
    assert leaves < ptx.index("st.global")
    # Registers suffice, and offsets are 64 bits wide: 32 would wrap in a large bank.
    assert ".local" not in ptx
    products = re.findall(r"arith\.muli .*: (\S+)", code.asm["ttir"])
    assert products
    assert all(kind.endswith(("i64", "xi64>")) for kind in products)


def test_torch_dispatches_cuda_tensors_to_it() -> None:
    registered = torch._C._dispatch_has_kernel_for_dispatch_key
    assert registered("steersman::add", "CUDA")
    assert registered("steersman::add", "Meta")


WITHOUT_TRITON = """
import sys
sys.modules["triton"] = None
import torch
from steersman.steering.ops.addition import add, add_on_cuda
index, row = torch.ones(1, 1, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
tables = torch.ones(2, 3), index, torch.ones(1, 1), row, torch.ones(1, 1)
hidden = torch.ones(1, 3)
add(hidden, *tables)
assert hidden.tolist() == [[2.0] * 3]
try:
    add_on_cuda(hidden, *tables)
except ImportError as error:
    assert "triton" in str(error)
    assert hidden.tolist() == [[2.0] * 3]
    print("refused")
"""


def test_a_cpu_needs_no_triton_and_a_gpu_does_not_go_on_without() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRITON],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout == "refused\n", ended.stderr
