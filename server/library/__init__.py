"""REST for vectors.

routes     list, upload, change and delete; schemas has their models
upload     a multipart form, spooled to disk
inspect    lengths, cosines, top tokens of a vector; inspect_schemas has its models
in_time    looking vectors up, where the disk may hang
lanes      threads for the work of the routes, a few for each kind
openapi    the OpenAPI description of bodies and queries that are read by hand
"""
