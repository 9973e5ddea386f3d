"""Steering vectors at rest: the file, the library on disk, and how vectors are made."""
