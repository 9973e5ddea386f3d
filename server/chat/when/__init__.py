"""When a use of a vector acts: its gate, from the request to the receipt."""
