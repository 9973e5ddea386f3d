"""Understanding a vector: `steersman sweep` and `steersman vectors inspect`, clients of a server.

command.py           sweep: what it is asked, and what it writes
grid.py              the cells: coefficients and sets of layers
prompts.py           what is asked in every cell
ask.py               one steered answer; its log-probabilities under the unsteered model
fluency.py           perplexity and repetition out of them
measures/            what is wanted of an answer, as a number; one module a measure
run.py               all cells at once, a bounded number of requests in flight
pick.py              the rule that picks defaults
report.py, figure.py what came of it
inspect_*.py         the same for inspect; the server computes it
(`steersman.server.library.inspect`)
"""
