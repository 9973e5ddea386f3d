"""Pages that are written from the code: `python -m tools.docs` writes them, a test compares."""
