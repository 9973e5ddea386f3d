"""Dynamic composition with vectors as its paper makes them, and the tables of docs/composition.md.

steps            the comparison of `bench.engine.composition` with a vector for each step
step_vectors     makes these
page             the tables, out of bench/results
"""
