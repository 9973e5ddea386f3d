"""Our file format: safetensors with one JSON object of metadata.

format      reading and writing a vector
header      the header, bounded and checked before anything else
metadata    the fields of a vector as JSON
operation   finds keys by which other tools name an operation; glp: the keys of GLP
"""
