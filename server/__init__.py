"""HTTP: what a client sees. Steersman's routes, on vLLM's API server.

middleware/    before every route: checks keys, bounds bodies, refuses steering that has no effect
auth/          keys, their permissions, and what a key sees of the library
chat/          the routes that generate: from a `steering` field to a plan, and back to a receipt
library/       REST for vectors
extraction/    vectors made on the served model
start/         what a server does once, at its start

plugin         the entry point: puts all of this on vLLM's app
state          what the routes share; dependencies gives each route its part
errors         exceptions; error_response maps them to HTTP
doses          relative doses of vectors on this model, and their limits
drain, health  SIGTERM; GET /ready and the lag of the event loop
metrics        Prometheus metrics
openapi        the parts of the OpenAPI document that concern the whole server
routing        which route a call goes to
run_batch      steered lines of `vllm run-batch`
"""
