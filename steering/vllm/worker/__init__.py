"""Seams in a worker.

worker                              the composition root
rpc                                 methods of vLLM's worker, and those for `collective_rpc`
loading                             reads vectors from the library
load_ahead                          orders to load come with steps, and reports leave with them
stages                              the stages of a pipeline, and their blocks
model_runner_v1, model_runner_v2    the steps of vLLM's model runners
model, logit_lens                   passes of the bare model; its final norm and unembedding
graph_sets                          full CUDA graphs with the operation and without
dummy_run                           runs that belong to no request
cache_blocks                        fills memory of the cache with zeros
"""
