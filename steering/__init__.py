"""Steersman inside vLLM's processes. A request becomes a plan, a plan becomes rows, rows become one
addition on the way through a layer.

    plan/        what a request needs of the engine, and what comes back: data and arithmetic
    scheduler/   who gets bank rows (`admission`), and the companions of dynamic answers
    worker/      the requests of a step become table entries, which each layer's hook reads
    ops/         the addition, in torch and in Triton
    vllm/        the seams, the only folder here that imports vllm: `seams` lists every touch of it
    logs         the log of every process of a server
"""
