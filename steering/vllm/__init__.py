"""The seams: the only folder of this room that imports vllm.

plugin           the entry point: checks, then installs all seams
seams, seam      the table of every touch of vLLM; how one is checked, and how one is wrapped
unsupported      versions, devices and ways of running that are refused
config           sizes and settings of this engine
compile_cache    our sources in the key of vLLM's compile cache
frontend         where requests come in and outputs go out
run_batch        `vllm run-batch`, which refuses what it cannot steer
parent_watch     an engine core ends with its API server
core/            the scheduler's process
worker/          the workers' processes
"""
