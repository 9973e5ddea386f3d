"""Write the generated pages of docs/ again: `python -m tools.docs`."""

from pathlib import Path

from tools.docs.commands import commands
from tools.docs.metrics import metrics
from tools.docs.rest import rest
from tools.docs.settings import settings

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = {"rest.md": rest, "commands.md": commands, "metrics.md": metrics, "settings.md": settings}
"""Of each page, what writes it."""


def main() -> None:
    for name, write in PAGES.items():
        (DOCS / name).write_text(write(), encoding="utf-8")
        print(f"docs/{name}")


if __name__ == "__main__":
    main()
