"""Pages that are written by hand and have a generated part between two comments."""


def insert(text: str, name: str, made: str) -> str:
    """`text` with `made` between `<!-- NAME:begin -->` and `<!-- NAME:end -->`.

    Raises ValueError where these markers are missing.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    before, found, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"no {begin} ... {end}")
    return f"{before}{begin}\n{made}\n{end}{after}"
