"""What `steersman serve` does around vLLM's server: checks before it starts, signals and the cause
of a failure while it does, a banner when it is up, one line when it ends."""
