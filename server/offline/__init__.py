"""Steering without a server, for vLLM's own `LLM` in this process.

steer    what `steersman.offline(llm)` returns: the server's checks, plans and receipts
engine   the `LLM` in the form in which the server knows its engine
"""
