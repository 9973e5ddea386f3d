"""What gets the stream at the sites in a forward pass, and changes nothing.

capture    the stream itself, as sums or token by token; median norms
readouts   one number a token: the stream along a vector
"""
