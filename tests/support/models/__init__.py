"""Families of models: what each is, run with vLLM and judged by Hugging Face's own code."""
