"""Seams in the engine core.

scheduler       vLLM's scheduler, its methods wrapped
state           the attributes that we add to it
waiting         keeps requests out of vLLM's queue until bank rows are reserved for them
portions        how many tokens of a captured prompt a step takes
failures        ends requests that were not steered, or are not finite
notes           what leaves on the outputs of requests
request         the plan of vLLM's request; requests of companions
prefix_cache    keys of cache blocks
connectors      which blocks a KV connector copies
"""
