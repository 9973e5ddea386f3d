"""Seams in the engine core.

scheduler       vLLM's scheduler, its methods wrapped
state           the attributes that we add to it
waiting         who waits for bank rows, and comes into vLLM's queue when they are set aside
portions        how much of a captured prompt a step takes
failures        requests that were not steered, or are not finite
notes           what leaves on the outputs of requests
request         the plan of vLLM's request; requests of companions
prefix_cache    keys of cache blocks
"""
