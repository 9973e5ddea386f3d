"""The seams: the only folder of this room that imports vllm.

plugin           the entry point: checks vLLM, then installs all seams
seams, seam      the table of every place where we touch vLLM; how a seam is checked and wrapped
unsupported      versions, devices and ways of running that are refused
config           sizes and settings of this engine
compile_cache    our sources in the key of vLLM's compile cache
frontend         where requests enter the engine and outputs leave it
run_batch        `vllm run-batch`, which refuses what it cannot steer
parent_watch     ends an engine core whose API server has ended
core/            the scheduler's process
worker/          the workers' processes
"""
