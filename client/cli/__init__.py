"""The `steersman` command: a client of a Steersman server, and the way to start one.

    app.py        the commands, and what they share
    options.py    --server, --api-key, --json, which every client command has; help with examples
    parse.py      values of options
    show.py       tables and notes: results on stdout, all else on stderr
    vectors/      `steersman vectors ...`, a module for each kind of work
    jobs.py       `steersman jobs ...`; watch.py waits for one
    keys.py       `steersman keys ...`

Nothing here imports torch or vllm before it is needed, so that `steersman --help` is quick.
"""

import sys


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status (see `steersman.client.errors`)."""
    args = sys.argv[1:] if argv is None else argv
    if args[:1] == ["serve"]:
        # All after `serve` is for argparse and vLLM, whose options typer does not know.
        from steersman.client.launch.serve import serve

        return serve(args[1:])
    from steersman.client.cli.app import run

    return run(args)
