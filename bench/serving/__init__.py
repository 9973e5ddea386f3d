"""Benchmarks of a server, by HTTP."""
