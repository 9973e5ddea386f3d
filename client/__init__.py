"""All that talks to a Steersman server, and the command that starts one.

http      a client of the server's API; paths, its paths; errors, with exit statuses
cli       the `steersman` command: vectors, jobs, keys
chat      `steersman chat`: a conversation that can be steered from turn to turn
sweep     `steersman sweep` and `steersman vectors inspect`: what a vector does
launch    `steersman serve`: checks, defaults and signals around vLLM's server
"""
