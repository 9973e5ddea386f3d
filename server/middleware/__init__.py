"""Pure ASGI middleware, outermost first.

drain_gate       nothing new gets in once the server is about to stop
auth             who calls, what the route needs, the key's limits
body_limit       how many bytes, and for how long
refuse_ignored   reads a body once, and refuses steering that would be ignored

body reads JSON within bounds, body_shape measures it, constraints bounds what an answer has to
satisfy; fail_fast has FastAPI stop at the first fault of a list.
"""
