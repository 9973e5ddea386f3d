"""HTTP room: all that a client sees. Routes, receipts, errors, metrics, the launcher."""
