"""The CUDA form of the operation on the CPU, under Triton's interpreter, in a process of its own.

Triton reads `TRITON_INTERPRET` when it is first imported, and vLLM imports it in the test process.
The other process gets whole storages and sends them back, so a write past a view is seen here.
"""

import atexit
import functools
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import torch
from torch import Tensor


class Refused(ValueError):
    """The ValueError that the operation raised in the other process."""


def interpreted(
    hidden: Tensor,
    bank: Tensor,
    index: Tensor,
    coefficient: Tensor,
    token_entry: Tensor,
    token_gain: Tensor,
) -> None:
    """The operation in place, on the storages of the arguments. Arguments as of `add`."""
    _run("add", hidden, bank, index, coefficient, token_entry, token_gain)


def interpreted_steer(
    hidden: Tensor,
    other: Tensor | None,
    bank: Tensor,
    index: Tensor,
    reads: Tensor,
    coefficient: Tensor,
    scalars: Tensor,
    token_entry: Tensor,
    token_gain: Tensor,
) -> None:
    """The same of `steer`."""
    _run("steer", hidden, other, bank, index, reads, coefficient, scalars, token_entry, token_gain)


def _run(name: str, *arguments: Tensor | None) -> None:
    worker = _worker()
    assert worker.stdin is not None
    assert worker.stdout is not None
    _write(worker.stdin, [name, *arguments])
    answer = _read(worker.stdout)
    if isinstance(answer, str):
        raise Refused(answer)
    assert isinstance(answer, list), "the interpreter's process ended; its error is on stderr"
    for mine, theirs in zip(arguments, answer, strict=True):
        if mine is not None:
            mine.untyped_storage().copy_(theirs.untyped_storage())


@functools.cache
def _worker() -> subprocess.Popen[bytes]:
    worker = subprocess.Popen(
        [sys.executable, "-m", "tests.support.steering.interpreted"],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    atexit.register(worker.kill)
    return worker


def _write(pipe: IO[bytes], what: object) -> None:
    buffer = io.BytesIO()
    torch.save(what, buffer)
    pipe.write(buffer.tell().to_bytes(8) + buffer.getvalue())
    pipe.flush()


def _read(pipe: IO[bytes]) -> object:
    length = int.from_bytes(pipe.read(8))
    return torch.load(io.BytesIO(pipe.read(length)), weights_only=True) if length else None


def _serve() -> None:
    from steersman.steering.ops.addition import add_on_cuda
    from steersman.steering.ops.operations import steer_on_cuda

    operations: dict[str, Callable[..., None]] = {"add": add_on_cuda, "steer": steer_on_cuda}
    while isinstance(call := _read(sys.stdin.buffer), list):
        name, *arguments = call
        try:
            operations[name](*arguments)
        except ValueError as error:
            _write(sys.stdout.buffer, str(error))
        else:
            _write(sys.stdout.buffer, arguments)


if __name__ == "__main__":
    _serve()
