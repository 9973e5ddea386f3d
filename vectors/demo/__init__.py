"""The demonstration: a small real model and vectors made on it from our own texts."""
