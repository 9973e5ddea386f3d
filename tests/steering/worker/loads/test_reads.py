"""Threads that read vectors: one that hangs stops no other."""

import threading
from collections.abc import Mapping

import torch
from torch import Tensor

from steersman.steering.plan.errors import VectorUnavailable
from steersman.steering.worker.loads.reads import Read, Reads
from steersman.vectors.tensors import HookPoint

ANY = HookPoint("resid_post", 1)


class Disk:
    """A library's disk, of which vectors whose name begins with "h" hang until `thaw`."""

    def __init__(self) -> None:
        self.thaw = threading.Event()
        self.asked: list[str] = []
        self.begun = threading.Semaphore(0)

    def read(self, digest: str) -> Mapping[HookPoint, Tensor]:
        self.asked.append(digest)
        self.begun.release()
        if digest.startswith("h"):
            assert self.thaw.wait(30)
        if digest.startswith("gone"):
            raise VectorUnavailable(f"{digest} is gone")
        return {ANY: torch.ones(2)}


def over(reads: Reads, count: int) -> dict[str, Read]:
    """The next so many reads that are over."""
    found: dict[str, Read] = {}
    while len(found) < count:
        reads.wait(10)
        new = reads.take()
        assert new, "nothing is read"
        found |= new
    return found


def test_vectors_are_read_and_handed_over_once() -> None:
    disk = Disk()
    reads = Reads(disk.read)
    for name in ("a", "gone", "b"):
        reads.begin(name)
    found = over(reads, 3)
    assert isinstance(found["gone"].found, VectorUnavailable)
    assert not isinstance(found["a"].found, VectorUnavailable)
    assert found["a"].found[ANY].tolist() == [1, 1]
    assert found["a"].seconds >= 0
    assert reads.take() == {}
    reads.begin("a")
    assert over(reads, 1).keys() == {"a"}
    assert disk.asked.count("a") == 2


def test_a_read_that_hangs_stops_no_other() -> None:
    disk = Disk()
    reads = Reads(disk.read, threads=3)
    for name in ("h1", "h2", "a", "b", "c"):
        reads.begin(name)
    assert over(reads, 3).keys() == {"a", "b", "c"}
    disk.thaw.set()
    assert over(reads, 2).keys() == {"h1", "h2"}


def test_as_many_reads_hang_as_there_are_threads() -> None:
    """The bound that the docs name: then others wait too, until one read ends."""
    disk = Disk()
    reads = Reads(disk.read, threads=2)
    for name in ("h1", "h2", "a", "left", "b"):
        reads.begin(name)
    disk.begun.acquire()
    disk.begun.acquire()
    reads.forget("left")
    assert sorted(disk.asked) == ["h1", "h2"]
    disk.thaw.set()
    assert over(reads, 4).keys() == {"h1", "h2", "a", "b"}
    assert "left" not in disk.asked


def test_a_vector_whose_read_hangs_takes_one_thread_however_often_it_is_asked_for() -> None:
    disk = Disk()
    reads = Reads(disk.read, threads=2)
    reads.begin("h")
    disk.begun.acquire()
    for _ in range(5):
        reads.forget("h")
        reads.begin("h")
    reads.begin("a")
    assert over(reads, 1).keys() == {"a"}
    disk.thaw.set()
    assert over(reads, 1).keys() == {"h"}
    assert disk.asked.count("h") == 1


def test_what_was_read_for_nobody_is_not_handed_to_the_next() -> None:
    """The file may have been healed meanwhile."""
    disk = Disk()
    reads = Reads(disk.read)
    reads.begin("gone")
    reads.wait(10)
    reads.begin("gone")
    assert over(reads, 1).keys() == {"gone"}
    assert disk.asked == ["gone", "gone"]
