"""A client that changes the library until its server is killed, and knows what must be there."""

import contextlib
import random
import threading

import httpx

from tests.support.faults.deployment import VECTORS
from tests.support.http.client import Client


class Writer(threading.Thread):
    """A client that uploads, swaps and deletes vectors of five names of its own until the server is
    gone, and knows what the library may say of each: what it was told last, or has asked since."""

    def __init__(self, own: object, url: str, files: dict[str, bytes]) -> None:
        super().__init__()
        self.may_be: dict[str, set[str | None]] = {f"w{own}-{n}": {None} for n in range(5)}
        self.changes = 0
        self.trouble: list[str] = []
        self._url = url
        self._files = files
        self._draw = random.Random(str(own))

    def run(self) -> None:
        with (
            httpx.Client(base_url=self._url, timeout=120, trust_env=False) as http,
            contextlib.suppress(httpx.TransportError),
        ):
            while not self.trouble:
                self._change(Client(http), self._draw.choice(list(self.may_be)))
                self.changes += 1

    def _change(self, client: Client, name: str) -> None:
        (now,) = self.may_be[name]
        new: str | None = None
        if now is None or self._draw.random() < 0.5:
            new = self._draw.choice(list(self._files))
        self.may_be[name] = {now, new}
        if now is None and new is not None:
            answer = client.upload(self._files[new], name)
        elif new is not None:
            # Its content comes with a name that nobody asks for again.
            client.upload(self._files[new], f"content-{new[7:19]}")
            answer = client.http.patch(f"{VECTORS}/{name}", json={"digest": new})
        else:
            answer = client.http.delete(f"{VECTORS}/{name}")
        if not answer.is_success:
            self.trouble.append(answer.text)
        self.may_be[name] = {new}
