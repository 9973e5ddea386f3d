"""For all tests."""

from hypothesis import HealthCheck, settings

# Timings are never asserted: the machines are shared and noisy.
settings.register_profile("steersman", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steersman")
