"""Who may do what: keys, their permissions, and what a key sees.

keyfile        the keys file, read again when it changes; whole_yaml refuses one that is cut short
permissions    scopes and limits of a key
route_scopes   the scope that each route needs
caller         the caller of the request that runs
library_view   the library as a key sees it
rate_limit     answers a minute and answers at once; count_answers counts them
vllm_keys      vLLM's own keys
audit          a line of JSON for every change
"""
