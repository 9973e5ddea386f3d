"""The package gguf, which only GGUF files need: an install beside vLLM may lack it."""

from typing import Any

from steersman.vectors.errors import PackageMissing


def gguf_package() -> Any:
    """The module `gguf`. Raises `PackageMissing` with the command that installs it."""
    try:
        import gguf
    except ImportError as error:
        raise PackageMissing(
            "reading and writing GGUF files needs the package gguf, which is not installed here: "
            "run `pip install gguf`",
            param="gguf",
        ) from error
    return gguf
