"""Writes the table of docs/ways.md from what the matrix found.

python -m tests.support.matrix.table
"""

from pathlib import Path

from tests.support.matrix.results import read

PAGE = Path(__file__).parents[3] / "docs" / "ways.md"
BEGIN, END = "<!-- ways:begin -->", "<!-- ways:end -->"


def table(rows: dict[str, dict[str, str]]) -> str:
    """A Markdown table of the rows: those that steer, then refused ones, then the rest."""
    order = ["yes", "refused", "not tried", "FAILED"]
    lines = ["| way of running | steered | how it was seen, or why not |", "| --- | --- | --- |"]
    for name, row in sorted(rows.items(), key=lambda r: (order.index(r[1]["steered"]), r[0])):
        lines.append(f"| {name} | {row['steered']} | {row['how'].replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def insert(text: str, made: str) -> str:
    """`text` with `made` between the markers. Raises ValueError where there are no markers."""
    before, found, rest = text.partition(BEGIN)
    _, found_end, after = rest.partition(END)
    if not found or not found_end:
        raise ValueError(f"no {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(insert(PAGE.read_text(encoding="utf-8"), table(read())), encoding="utf-8")
