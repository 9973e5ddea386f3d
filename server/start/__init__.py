"""What a server does once, at its start.

opening        opens the library and collects what every request is resolved with
banner         prints the address, the vectors and an example to paste
calibration    measures the model's residual norms, or reads them from the cache
fingerprint    identifies the model and its weights
"""
