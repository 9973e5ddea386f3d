"""An engine in a process of its own, where another environment holds."""

import multiprocessing
import os
import pickle
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

import pytest

from tests.support.engine.engine import Answer, Ask, Engine


class RemoteFailed(RuntimeError):
    """What went wrong in the other process: its traceback."""


class RemoteEngine:
    """Has the methods of `Engine` that take and give plain data. Close it when done."""

    def __init__(self, environment: Mapping[str, str], **options: Any) -> None:
        """Start `LLM(**options)` with additions to the environment."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, options), daemon=True)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            self._process.start()
        theirs.close()
        self._answer()

    def do(self, function: Callable[..., Any], *args: Any) -> Any:
        """Result of `function(engine, *args)` there; a function of some module, and plain data."""
        self._pipe.send((function, args))
        return self._answer()

    def ask(self, *asks: Ask) -> list[Answer]:
        found: list[Answer] = self.do(Engine.ask, *asks)
        return found

    def receipts(self, *asks: Ask) -> list[list[tuple[int, ...]]]:
        found: list[list[tuple[int, ...]]] = self.do(Engine.receipts, *asks)
        return found

    def forget(self) -> None:
        self.do(Engine.forget)

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.do(Engine.status)
        return found

    def metric(self, name: str) -> float:
        found: float = self.do(Engine.metric, name)
        return found

    def close(self) -> None:
        self._pipe.close()
        self._process.join(30)
        self._process.kill()

    def _answer(self) -> Any:
        try:
            went_well, found = self._pipe.recv()
        except EOFError:
            raise RemoteFailed("the engine's process died; its log says why") from None
        if not went_well:
            raise RemoteFailed(found)
        return found


def _serve(pipe: Connection, options: dict[str, Any]) -> None:
    try:
        from vllm import LLM

        engine = Engine(LLM(**options))
        pipe.send((True, None))
        while True:
            function, args = pipe.recv()
            try:
                found = pickle.dumps((True, function(engine, *args)))
            except Exception:  # noqa: BLE001 - whatever it is, the other side is told
                found = pickle.dumps((False, traceback.format_exc()))
            pipe.send_bytes(found)
    except EOFError:
        os._exit(0)  # vLLM's threads need not be waited for.
    except BaseException:  # noqa: BLE001
        pipe.send((False, traceback.format_exc()))
