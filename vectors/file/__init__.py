"""One vector in one safetensors file: header, metadata, tensors."""
