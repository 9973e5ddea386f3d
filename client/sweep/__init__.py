"""Understanding a vector: `steersman sweep` and `steersman vectors inspect`, clients of a server.

command.py           sweep: its options, and what it writes
grid.py              the cells: coefficients and sets of layers
prompts.py           the prompts of every cell
ask.py               one steered answer; its log-probabilities under the unsteered model, and the
                     perplexity and repetition out of them
measures/            measures of an answer, a number each; one module a measure
run.py               all cells at once, a bounded number of requests in flight
pick.py              the rule that picks defaults
report.py, figure.py the results: table, JSON, PNG
inspect_*.py         the same for inspect; the server computes it
(`steersman.server.library.inspect`)
"""
