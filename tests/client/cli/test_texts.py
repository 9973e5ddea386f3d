from pathlib import Path

import pytest

from steersman.client.cli.vectors.texts import Texts, read_texts
from steersman.client.errors import WrongUsage


def write(folder: Path, **files: str) -> list[Path]:
    paths = [folder / name.replace("_", ".") for name in files]
    for path, text in zip(paths, files.values(), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


def test_two_sides_are_a_text_a_line(tmp_path: Path) -> None:
    good, bad = write(tmp_path, good_txt="one \n\ntwo\x0cstill two\r\n", bad_txt="three")
    found = read_texts(None, good, bad, [])
    assert found == Texts({"positive": ["one", "two\x0cstill two"], "negative": ["three"]}, None)


def test_pairs_go_as_they_are(tmp_path: Path) -> None:
    (pairs,) = write(tmp_path, pairs_jsonl='{"positive": "a", "negative": "b"}\nbroken\n')
    assert read_texts(pairs, None, None, []) == Texts({}, pairs.read_bytes())


def test_styles_are_the_files_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path, plain_txt="a\nb", noble_txt="c", README_md="not a style")
    wanted = {"styles": {"noble": ["c"], "plain": ["a", "b"]}}
    assert read_texts(None, None, None, [tmp_path]).body == wanted
    files = [tmp_path / "noble.txt", tmp_path / "plain.txt"]
    assert read_texts(None, None, None, files).body == wanted


def test_styles_may_be_one_jsonl_file(tmp_path: Path) -> None:
    (file,) = write(tmp_path, styles_jsonl='{"text": "a", "label": "noble"}\n')
    assert read_texts(None, None, None, [file]) == Texts({}, file.read_bytes())


def test_what_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    one, two, empty, lines = write(
        tmp_path, one_txt="a", two_txt="b", empty_txt=" \n", lines_jsonl="{}"
    )
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    (tmp_path / "more").mkdir()
    (again,) = write(tmp_path / "more", one_txt="c")
    given: tuple[Path | None, Path | None, Path | None, list[Path]]
    for given in (
        (None, None, None, []),
        (lines, one, two, []),
        (lines, None, None, [one]),
        (None, one, None, []),
        (None, None, two, []),
        (None, one, empty, []),
        (None, one, tmp_path / "latin.txt", []),
        (None, None, None, [one]),
        (None, None, None, [one, again]),
        (None, None, None, [one, lines]),
    ):
        with pytest.raises(WrongUsage):
            read_texts(*given)
