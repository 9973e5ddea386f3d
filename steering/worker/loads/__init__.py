"""Vectors come into the bank ahead of the requests that need them.

reads     a few threads that read vectors
loads     what the scheduler orders: read, brought into the bank on all ranks, dropped
"""
