"""`steersman chat`: a conversation that can be steered from turn to turn."""
