"""`POST /v1/steering/activations`: the residual stream of texts, as a file.

routes     the route
request    its body
collect    through the engine, by extraction's captures
"""
