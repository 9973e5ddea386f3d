"""Presets: steering by name.

view         presets as a key sees them
schemas      what the routes take and give
routes       the REST of presets
model_name   `<served model>:<preset>` and `<served model>:<vector>@<coefficient>,...` taken apart
choose       whether the request, its model name, its key or the server says how it is steered
models       `GET /v1/models` with the presets
"""
