"""The routes that generate: from a request's `steering` field to a plan, and back to a receipt.

routes           vLLM's own handlers, a plan before, a receipt after
requests         vLLM's request models with the field
field            the field: schema, reading, errors; header_field reads `X-Steering`
resolve          names to a plan; strength has the coefficients, token by token
steered_request  one request from its field to its receipt; in_flight counts what they hold
receipt          the receipt on an answer and in a header; receipt_schema describes it
when/            gates and markers: their schemas, vectors and tokens, and their receipt
sse              the same for streams
trace            what a dynamic request did at each token
"""
