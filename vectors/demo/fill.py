"""Putting the demo vectors into a library."""

from collections.abc import Callable
from pathlib import Path

from steersman.vectors.demo.make import make_vectors
from steersman.vectors.errors import VectorConflict
from steersman.vectors.library.library import Library

Progress = Callable[[str], None]


def fill_library(model_dir: Path, library_dir: Path, progress: Progress = print) -> None:
    """Make the demo vectors beside the model and add those that the library lacks.

    A name that stands for other content is the user's and is left alone. Raises `DemoError` or
    `LibraryError`.
    """
    library = Library(library_dir)
    for path in make_vectors(model_dir, model_dir.parent / f"{model_dir.name}-vectors", progress):
        try:
            _, new = library.add(path.read_bytes())
        except VectorConflict:
            progress(f"demo vectors: the library has another {path.stem!r}, which is kept")
            continue
        if new:
            progress(f"demo vectors: added {path.stem!r} to {library_dir}")
