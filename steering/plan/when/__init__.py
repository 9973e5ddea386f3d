"""When a use of a vector acts: what a plan says beside the positions."""
