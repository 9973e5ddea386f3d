"""One module a format; `dispatch` chooses by content. Each returns an `ImportedFile`."""
