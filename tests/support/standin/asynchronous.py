"""Asynchronous scheduling on a CPU, for which vLLM turns it off (`platforms/cpu.py`).

A plugin of vLLM's, so that it is there in every process of an engine. A step is scheduled before
the output of the one before it is looked at, by vLLM's own scheduler, engine loop and model
runners. A CPU has computed it by then, so what is not shown is an overlap in time.
"""

from typing import Any


def install() -> None:
    """Have vLLM decide as it does on a GPU. Idempotent."""
    from vllm.platforms.cpu import CpuPlatform

    original: Any = CpuPlatform.check_and_update_config.__func__  # type: ignore[attr-defined]
    if hasattr(original, "__standin__"):
        return

    def check_and_update_config(cls: Any, vllm_config: Any) -> None:
        # vLLM has decided by now, from the options and the ways that exclude one another.
        wanted = vllm_config.scheduler_config.async_scheduling
        original(cls, vllm_config)
        vllm_config.scheduler_config.async_scheduling = wanted

    vars(check_and_update_config)["__standin__"] = True
    CpuPlatform.check_and_update_config = classmethod(  # type: ignore[method-assign, assignment]
        check_and_update_config
    )
