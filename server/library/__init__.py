"""REST for vectors: routes, schemas, uploads, inspection."""
