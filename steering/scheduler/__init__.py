"""What the engine core decides: who gets bank rows, and a dynamic answer's companions."""
