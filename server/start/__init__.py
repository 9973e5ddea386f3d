"""What a server does once, at its start.

banner         prints where it listens, what it has, what to paste
calibration    measures the model's residual norms, or reads them from the cache
fingerprint    names the model and its weights
"""
