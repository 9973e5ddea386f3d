"""What every request passes before its route: keys, bounds on bodies, and refusals."""
