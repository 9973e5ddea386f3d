"""Entry point `vllm.general_plugins`: vLLM calls `register` in every process it starts.

Imports happen inside, so that whatever is wrong is raised by the call: vLLM logs and skips a
plugin that fails to import, but a plugin that raises stops the start, as it must.
"""


def register() -> None:
    """Install all seams. Idempotent; raises RuntimeError for an unsupported vLLM."""
    import vllm

    from steering import (
        op,
        seam_config,
        seam_frontend,
        seam_prefix_cache,
        seam_scheduler,
        seam_worker,
    )

    seam_config.check_version(vllm.__version__)
    seam_config.check_frontend()
    seam_config.install()
    seam_frontend.install()
    seam_prefix_cache.install()
    seam_scheduler.install()
    seam_worker.install()
    del op  # importing it registered the operation
