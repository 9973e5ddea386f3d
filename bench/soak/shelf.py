"""The soak's vectors: some stay, one name is swapped, guests come and go. And what a request may
have met of them, by the clock."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field

import httpx
import torch
from safetensors.torch import save

LAYERS = (10, 14)
HIDDEN = 576
NORM = 60.0
KEPT = 4
CONTENTS = 6
"""Contents with golden answers that go by changing names: the first two take turns as `swapped`."""
NEVER = float("inf")


def vector_file(seed: int) -> bytes:
    """A random vector of length `NORM` at each of `LAYERS`; the same seed, the same bytes."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(len(LAYERS), HIDDEN, generator=generator)
    rows *= NORM / rows.norm(dim=1, keepdim=True)
    return save({f"resid_post.{n}": row.clone() for n, row in zip(LAYERS, rows, strict=True)})


@dataclass
class Guest:
    """A name that comes and goes. Times are of the calls that changed it, monotonic."""

    name: str
    digest: str
    content: int | None
    """Which of the contents with golden answers it is; None for one that nobody has seen yet."""
    came: tuple[float, float]
    went: tuple[float, float] = (NEVER, NEVER)

    def may_be_there(self, start: float, end: float) -> bool:
        """Whether a request in [start, end] may have found it."""
        return end >= self.came[0] and start <= self.went[1]

    def may_be_gone(self, start: float, end: float) -> bool:
        """Whether a request in [start, end] may have missed it."""
        return start <= self.came[1] or end >= self.went[0]


@dataclass
class Shelf:
    """All of them, and the hand that moves them. Raises RuntimeError when a call is refused."""

    client: httpx.AsyncClient
    draw: random.Random
    digests: dict[str, str] = field(default_factory=dict)
    """Digests of `kept0`, ... and `content0`, ..., which stay."""
    swaps: list[tuple[float, float, str]] = field(default_factory=list)
    """Of the name `swapped`: when the call began and ended, and the digest it set."""
    guests: list[Guest] = field(default_factory=list)
    gone: list[Guest] = field(default_factory=list)
    uploads: int = 0
    deletions: int = 0

    async def fill(self) -> None:
        """What is there from the beginning."""
        for n in range(KEPT):
            self.digests[f"kept{n}"] = await self._upload(f"kept{n}", n)
        for n in range(CONTENTS):
            self.digests[f"content{n}"] = await self._upload(f"content{n}", 100 + n)
        began = time.monotonic()
        digest = await self._upload("swapped", 100)
        self.swaps.append((began, time.monotonic(), digest))

    async def stir(self, pause: float, stop: asyncio.Event) -> None:
        """Swap, upload and delete until `stop`; `pause` seconds between two changes."""
        while not stop.is_set():
            await self.draw.choice((self._swap, self._come, self._come, self._go))()
            await asyncio.sleep(pause)

    def possible_digests(self, start: float, end: float) -> set[str]:
        """What `swapped` may have stood for at some moment of [start, end]."""
        found = set()
        for n, (began, _, digest) in enumerate(self.swaps):
            replaced = self.swaps[n + 1][1] if n + 1 < len(self.swaps) else NEVER
            if began <= end and start <= replaced:
                found.add(digest)
        return found

    async def _swap(self) -> None:
        now = self.swaps[-1][2]
        other = next(d for n in (0, 1) if (d := self.digests[f"content{n}"]) != now)
        began = time.monotonic()
        # In the list before the call: a request may meet it before its answer is here.
        self.swaps.append((began, NEVER, other))
        response = await self.client.patch("/v1/steering/vectors/swapped", json={"digest": other})
        _expect(response, 200)
        self.swaps[-1] = (began, time.monotonic(), other)

    async def _come(self) -> None:
        if len(self.guests) >= 16:
            await self._go()
            return
        content = self.draw.choice((2, 3, 4, 5, None))
        seed = 100 + content if content is not None else 10_000 + self.uploads
        name = f"guest{self.uploads}"
        began = time.monotonic()
        digest = await self._upload(name, seed)
        self.guests.append(Guest(name, digest, content, (began, time.monotonic())))

    async def _go(self) -> None:
        if not self.guests:
            return
        guest = self.guests.pop(self.draw.randrange(len(self.guests)))
        began = time.monotonic()
        guest.went = (began, NEVER)
        self.gone = [*self.gone[-15:], guest]
        _expect(await self.client.delete(f"/v1/steering/vectors/{guest.name}"), 200)
        guest.went = (began, time.monotonic())
        self.deletions += 1

    async def _upload(self, name: str, seed: int) -> str:
        files = {"file": (f"{name}.safetensors", vector_file(seed))}
        response = await self.client.post("/v1/steering/vectors", files=files, data={"name": name})
        _expect(response, 201)
        self.uploads += 1
        return str(response.json()["digest"])


def _expect(response: httpx.Response, status: int) -> None:
    if response.status_code != status:
        raise RuntimeError(f"{response.request.url}: {response.status_code} {response.text}")
