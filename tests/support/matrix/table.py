"""Writes the table of docs/ways.md from what the matrix found.

python -m tests.support.matrix.table
"""

from pathlib import Path

from tests.support.matrix.results import read
from tools.docs.markers import insert

PAGE = Path(__file__).parents[3] / "docs" / "ways.md"


def table(rows: dict[str, dict[str, str]]) -> str:
    """A Markdown table of the rows: those that steer, then refused ones, then the rest."""
    order = ["yes", "refused", "not tried", "FAILED"]
    lines = ["| way of running | steered | how it was seen, or why not |", "| --- | --- | --- |"]
    for name, row in sorted(rows.items(), key=lambda r: (order.index(r[1]["steered"]), r[0])):
        lines.append(f"| {name} | {row['steered']} | {row['how'].replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(insert(text, "ways", table(read())), encoding="utf-8")
