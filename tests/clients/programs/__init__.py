"""Programs that use other people's clients, each in an environment of its own: nothing of ours is
imported. `PROGRAM URL [TOKENIZER]` prints a line of JSON for each cell of docs/clients.md's table.

say    what a line is
"""
