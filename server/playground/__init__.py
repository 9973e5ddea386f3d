"""The page at `/playground`: its files, built from `client/playground/`, and the route that sends
them."""
