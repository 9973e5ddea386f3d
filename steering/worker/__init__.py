"""What a worker keeps: a step's requests become table entries, and each layer reads them."""
