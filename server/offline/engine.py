"""Seam: vLLM's `LLM` (`entrypoints/llm.py`, `v1/engine/llm_engine.py`), in the form in which the
server's code knows its engine (`AsyncLLM`)."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class OfflineEngine:
    """What the server's code calls of an `AsyncLLM`, on an `LLM`. One event loop at a time may use
    it, while nobody else uses the `LLM`: steps run on the loop."""

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self._engine = llm.llm_engine
        self.vllm_config = self._engine.vllm_config
        self.renderer = llm.renderer
        self.output_processor = self._engine.output_processor
        self._outputs: dict[str, asyncio.Queue[Any]] = {}
        self._stepping: asyncio.Task[None] | None = None

    async def collective_rpc(self, method: str, args: tuple[Any, ...] = ()) -> list[Any]:
        """Call `method` of every worker."""
        found: list[Any] = self._llm.collective_rpc(method, args=args)
        return found

    async def generate(
        self, prompt: Any, params: Any, request_id: str, **_: Any
    ) -> AsyncIterator[Any]:
        """The outputs of one request, which runs beside the others that are running."""
        outputs = self._outputs[request_id] = asyncio.Queue()
        try:
            self._engine.add_request(request_id, prompt, params)
            if self._stepping is None or self._stepping.done():
                self._stepping = asyncio.create_task(self._step())
            while True:
                output = await outputs.get()
                if isinstance(output, BaseException):
                    raise output
                yield output
                if output.finished:
                    return
        finally:
            del self._outputs[request_id]
            self._engine.abort_request([request_id])

    async def _step(self) -> None:
        try:
            while self._engine.has_unfinished_requests():
                for output in self._engine.step():
                    if output.request_id in self._outputs:
                        self._outputs[output.request_id].put_nowait(output)
                await asyncio.sleep(0)
        except BaseException as error:
            for outputs in self._outputs.values():
                outputs.put_nowait(error)
            raise


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`. Also works in a thread whose event loop runs already, as in a
    notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1, "steersman-offline") as threads:
        return threads.submit(asyncio.run, work).result()
