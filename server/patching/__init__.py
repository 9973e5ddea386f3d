"""`POST /v1/steering/patch`: activation patching, a job.

routes      the route, and the heat map of a job
request     its body
prompts     both prompts as tokens, and what is patched
asking      runs with a patch, through the engine
run         the job
heat_map    its table as a picture
"""
