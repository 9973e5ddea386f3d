"""Who may do what: keys, their scopes, and what a key sees."""
