"""Seams in a worker: vLLM's worker, its model runners, its model, its cache."""
