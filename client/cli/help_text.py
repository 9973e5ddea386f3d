"""Help with examples, so that no other page is needed."""

from textwrap import dedent


def with_examples(summary: str, examples: str, *, after: str = "") -> str:
    """`summary`, the examples line by line, and what comes after them, for rich's markup."""
    lines = dedent(examples).strip()
    # A backspace keeps typer from filling the lines of its paragraph.
    shown = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines.splitlines())
    return "\n\n".join(part for part in (summary, shown, after) if part).replace("[", "\\[")
