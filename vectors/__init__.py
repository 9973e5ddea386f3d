"""Steering vectors at rest: no HTTP, no engine.

vector, tensors, defaults   the vector, the names of its tensors, its coefficient and positions
digest                      its identity: SHA-256 over what it does
served, hook_names          whether a model can be steered with it; other names of hook points
errors                      every error of this room, and their base
validation                  what pydantic finds wrong, in our words
file/                       our file format: safetensors with one JSON object of metadata
library/                    named vectors in a directory that several processes share
formats/                    files of other tools, read and written
methods/                    vectors out of activations, and measures of their quality
demo/                       the demo model and its vectors
"""
