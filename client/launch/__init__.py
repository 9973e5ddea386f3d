"""`steersman serve`: what happens around vLLM's own server.

serve            the start, step by step
options          our own options, and their table in the docs
vllm_arguments   vLLM's options, with our defaults
checks           what would fail later, found before the engine starts
run, signals     the directory of one run; Ctrl-C and SIGTERM while it starts
causes           one line of why a start failed
"""
