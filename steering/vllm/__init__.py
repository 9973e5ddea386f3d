"""The seams: the only folder of this room that imports vllm."""
