"""Named vectors in a directory that several processes share."""
