"""The demo model (SmolLM2-135M-Instruct) and its vectors, made on the user's machine.

model         the model from a PyPI wheel; serving: its directory as it is served
contrast      the texts of each vector; defaults: their measured layers and coefficients
activations   the residual stream of texts; directions: their differences
make          the vectors, and a library with them
"""
