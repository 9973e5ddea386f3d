"""What travels between the scheduler and its workers with a step, beside plans and counts.

readouts    what is read of a request's stream, and the values
loads       which vectors the workers are to load and to drop, and how far they are
"""
