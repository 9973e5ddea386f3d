"""Pure ASGI middleware, outermost first.

    drain_gate       accepts nothing new once the server is about to stop
    auth             the caller, the scope of the route, the key's limits
    body_limit       how many bytes a body may have, and how long it may take
    refuse_ignored   reads a body once, and refuses steering that would be ignored

body reads JSON within bounds, body_shape measures it, constraints bounds what an answer has to
satisfy; fail_fast makes FastAPI stop at the first fault of a list.
"""
