"""Seams in a worker.

worker                              the composition root
rpc                                 methods of vLLM's worker, and those for `collective_rpc`
loading                             vectors out of the library, on all ranks or on none
model_runner_v1, model_runner_v2    the steps of vLLM's model runners
model, logit_lens                   passes of the bare model, its norm and unembedding
dummy_run                           runs that belong to no request
cache_blocks                        memory of the cache, filled with zeros
"""
