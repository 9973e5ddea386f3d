"""Gates in a worker: what they measure in a step, and which tokens they pass."""
