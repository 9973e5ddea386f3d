"""vLLM's own offloading connector on a CPU, for whose copies vLLM wants a GPU.

The connector's half in the scheduler, that in the worker and the manager of its memory are vLLM's.
Only the copies between cache and memory are made here, at the time that the connector gives.
"""

from typing import Any

import torch
from vllm.v1.kv_offload.base import (
    CanonicalKVCaches,
    GPULoadStoreSpec,
    LoadStoreSpec,
    OffloadingWorker,
    TransferResult,
)
from vllm.v1.kv_offload.cpu.spec import CPUOffloadingSpec

CONNECTOR: dict[str, Any] = {
    "kv_connector": "OffloadingConnector",
    "kv_role": "kv_both",
    "kv_connector_extra_config": {
        "spec_name": "HostSpec",
        "spec_module_path": __name__,
        "cpu_bytes_to_use": 2**24,
        # What answers compute as well, so that nothing is left out that might be copied.
        "offload_prompt_only": False,
    },
}
"""vLLM's option `kv_transfer_config`."""


class HostSpec(CPUOffloadingSpec):
    """Memory of the host beside that of the cache, which is the host's too."""

    def get_worker(self, kv_caches: CanonicalKVCaches) -> OffloadingWorker:
        return HostWorker(kv_caches, self.num_chunks)


class HostWorker(OffloadingWorker):
    """Copies blocks of one group of layers, each to a chunk of its own."""

    def __init__(self, kv_caches: CanonicalKVCaches, chunks: int) -> None:
        self._caches = [cache.tensor for cache in kv_caches.tensors]
        self._kept = [
            torch.zeros(chunks, *cache.shape[1:], dtype=cache.dtype) for cache in self._caches
        ]
        self._over: list[TransferResult] = []

    def submit_store(
        self, job_id: int, src_spec: GPULoadStoreSpec, dst_spec: LoadStoreSpec
    ) -> bool:
        for cache, kept in zip(self._caches, self._kept, strict=True):
            kept[_ids(dst_spec)] = cache[_ids(src_spec)]
        self._over.append(TransferResult(job_id, success=True))
        return True

    def submit_load(self, job_id: int, src_spec: LoadStoreSpec, dst_spec: GPULoadStoreSpec) -> bool:
        for cache, kept in zip(self._caches, self._kept, strict=True):
            cache[_ids(dst_spec)] = kept[_ids(src_spec)]
        self._over.append(TransferResult(job_id, success=True))
        return True

    def get_finished(self) -> list[TransferResult]:
        over, self._over = self._over, []
        return over

    def wait(self, job_ids: set[int]) -> None:
        pass


def _ids(spec: Any) -> torch.Tensor:
    return torch.from_numpy(spec.block_ids).long()
