"""`steersman serve`: what happens around vLLM's own server.

serve            the start, step by step
options          our own options, and their table in the docs
vllm_arguments   vLLM's options, with our defaults
checks           finds before the engine starts what would fail later
run, signals     the directory of one run; Ctrl-C and SIGTERM while it starts
causes           why a start failed, in one line
"""
