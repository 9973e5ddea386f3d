"""`steersman chat`: a conversation, steered as it goes."""
