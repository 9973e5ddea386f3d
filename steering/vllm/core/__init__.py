"""Seams in the engine core: vLLM's scheduler, its queue, its requests, its prefix-cache keys."""
