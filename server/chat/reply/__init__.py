"""What goes onto an answer: receipt, trace, note and header, whole or streamed."""
