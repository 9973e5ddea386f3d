"""The `steersman` command."""

import sys

_HELP = """\
Usage: steersman serve [MODEL] [options]   serve a model that every request can steer
       steersman --help | --version

  steersman serve --demo            prepare and serve the demo model with its demo vectors
  steersman serve MODEL             serve any model that vLLM serves
  steersman serve --help            our options; --help=all adds vLLM's
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = sys.argv[1:] if argv is None else argv
    if args[:1] == ["serve"]:
        from server.launcher import serve

        return serve(args[1:])
    if args[:1] == ["--version"]:
        from importlib.metadata import version

        print(f"steersman {version('steersman')}")
        return 0
    asked = args[:1] in (["--help"], ["-h"])
    print(_HELP, end="", file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


if __name__ == "__main__":
    sys.exit(main())
