"""Extraction as jobs: their books, their states, and the pipeline that one runs."""
