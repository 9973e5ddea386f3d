"""`steering.read`: values of a request's stream along vectors.

use        the field
resolve    names become readouts of the plan
values     what was read, in the form of receipts and chunks
"""
