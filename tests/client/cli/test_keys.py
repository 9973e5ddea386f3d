"""`steersman keys`: what is made is what the server reads."""

import os
from pathlib import Path

import pytest
import yaml

from steersman.client.cli.app import run
from steersman.server.auth.keyfile import Keys

SCOPES = ("--scope", "infer", "--scope", "vectors:read")


def make(file: Path, name: str, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert run(["keys", "new", name, *SCOPES, "--file", str(file), *more]) == 0
    return capsys.readouterr().out.strip()


def test_keys_are_added_and_open_what_they_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.yaml"
    one = make(file, "one", capsys)
    two = make(file, "two", capsys, "--vectors", "team-*")
    keys = Keys(file)
    found = keys.find(two)
    assert found is not None
    assert (found.name, found.vectors) == ("two", ("team-*",))
    assert found.scopes == {"infer", "vectors:read"}
    assert keys.find(one) is not None
    assert one not in file.read_text()
    assert run(["keys", "check", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "one" in shown
    assert "team-*" in shown


def test_a_file_keeps_its_form_and_its_comments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.yaml"
    text = f"# ours\nkeys:\n    - name: old\n      sha256: '{1:064}'\n      scopes: [admin]"
    file.write_text(f"{text}\n...\n# the end\n")
    make(file, "new", capsys)
    assert file.read_text().startswith(text + "\n    - name: new\n")
    assert [key["name"] for key in yaml.safe_load(file.read_text())["keys"]] == ["old", "new"]


@pytest.mark.parametrize(
    "text", ["keys: []\n...\n", "[1, 2]\n...\n", "keys:\n- {name: same, ", "a: b\n...\n", "keys:\n"]
)
def test_a_file_of_another_form_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(text)
    assert run(["keys", "new", "x", *SCOPES, "--file", str(file)]) == 2
    assert file.read_text() == text
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["--scope", "root"], ["--scope", "infer", "--vectors"]])
def test_wrong_usage(wrong: list[str]) -> None:
    assert run(["keys", "new", "x", *wrong]) == 2


def test_a_name_that_is_there_is_not_there_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.yaml"
    make(file, "same", capsys)
    before = file.read_text()
    assert run(["keys", "new", "same", *SCOPES, "--file", str(file)]) == 2
    assert file.read_text() == before


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_the_mode_and_the_link_of_a_file_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: int
) -> None:
    file, link = tmp_path / "real" / "keys.yaml", tmp_path / "keys.yaml"
    file.parent.mkdir()
    make(file, "one", capsys)
    file.chmod(mode)
    link.symlink_to(Path("real", "keys.yaml"))
    make(link, "two", capsys)
    assert link.is_symlink()
    assert file.stat().st_mode & 0o7777 == mode
    assert Keys(file).names == ["one", "two"]
    assert os.listdir(file.parent) == ["keys.yaml"]


def test_a_file_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (tmp_path, tmp_path / "none" / "keys.yaml"):
        assert run(["keys", "new", "x", *SCOPES, "--file", str(file)]) == 1
        shown = capsys.readouterr()
        assert "--file" in shown.err
        assert "sk-steersman-" not in shown.out
