"""The server from Python: `steersman.Client` and `steersman.AsyncClient`.

types         what the server sends and takes, as typed dictionaries
calls         each call once: method, path, body, and how its answer is read
answer        an answer of the model, whole or in pieces
transport     HTTP for asyncio
sync          the client that waits
asynchronous  the client for asyncio
"""
