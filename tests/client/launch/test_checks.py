"""What `steersman serve` refuses before the engine starts, each in one sentence with its option."""

import socket
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from steersman.client.launch import checks
from steersman.client.launch.checks import CannotStart
from steersman.client.launch.options import explicit_settings, option_of_setting, own_parser
from steersman.client.launch.serve import serve

OPTIONS = option_of_setting()


def refusal(call: Any, *args: Any) -> str:
    with pytest.raises(CannotStart) as raised:
        call(*args)
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--bank-rows", "0"),
        ("--max-relative-dose", "-1"),
        ("--max-relative-dose", "nan"),
        ("--max-coefficient", "0"),
        ("--max-terms", "-3"),
        ("--body-timeout", "inf"),
        ("--max-waiting", "-1"),
        ("--max-upload-bytes", "0"),
    ],
)
def test_a_value_that_cannot_be_is_refused_at_once(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve(["--demo", option, value]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"steersman serve: {option} must be ")


def test_options_of_the_command_line_win_and_say_so() -> None:
    explicit = explicit_settings(["--max-vectors", "5", "--demo", "--max-model-len", "9"])
    assert explicit == {"max_vectors": 5}
    given = {"max_vectors": 9, "max_terms": 2}
    merged, lines = checks.read_settings(given, explicit, OPTIONS)
    assert merged == {"max_vectors": 5, "max_terms": 2}
    assert lines == ["--max-vectors 5 is used, not max_vectors 9 of --additional-config"]
    assert checks.read_settings(given, {"max_terms": 2}, OPTIONS)[1] == []
    # Defaults of options are not given by anybody.
    assert explicit_settings([]) == {}


def test_every_option_of_ours_wins() -> None:
    words = {int: "7", float: "0.5", None: "/tmp/x"}
    for action in own_parser()._actions:
        if action.dest in OPTIONS and action.nargs != 0:
            value = words.get(action.type if action.type in (int, float) else None)
            explicit = explicit_settings([action.option_strings[0], str(value)])
            assert list(explicit) == [action.dest]


@pytest.mark.parametrize("text", ["{", "[1]", '{"steersman": 3}', '"x"', "nonsense"])
def test_additional_config_that_is_not_an_object(text: str) -> None:
    assert refusal(checks.section, text).startswith("--additional-config")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_vektors": 3}, "max_vektors"),
        ({"bank_rows": 0}, 'additional-config "steersman.bank_rows" must be'),
        ({"library": 5}, "library"),
        ({"max_relative_dose": -1}, "max_relative_dose"),
    ],
)
def test_a_section_that_is_wrong(given: dict[str, Any], said: str) -> None:
    message = refusal(checks.read_settings, given, {}, OPTIONS)
    assert said in message
    assert "--additional-config" in message


def test_libraries(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, file / "below"):
        message = refusal(checks.check_library, path)
        assert message.startswith(f"--library {path}")
        assert "directory" in message
    # The kernel's own, which nobody may write to.
    assert refusal(checks.check_library, Path("/proc/steersman")).startswith("--library /proc")
    assert checks.check_library(tmp_path / "new" / "one") is None
    assert list((tmp_path / "new" / "one").iterdir()) == []


def test_a_library_that_others_fill_may_be_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    assert "is read-only" in refusal(checks.check_library, tmp_path)
    for part in ("names", "objects"):
        (tmp_path / part).mkdir()
    line = checks.check_library(tmp_path)
    assert line is not None
    assert "can only be read" in line


def address(**fields: Any) -> Namespace:
    return Namespace(**{"host": "127.0.0.1", "port": 0, "uds": None, "headless": False} | fields)


def test_ports() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        message = refusal(checks.check_address, address(port=port))
        assert message.startswith(f"--port {port} is in use")
        checks.check_address(address(port=port, headless=True))
    checks.check_address(address(port=port))
    for wrong in (65536, 99999, -1):
        assert "--port" in refusal(checks.check_address, address(port=wrong))
    for host in ("192.0.2.77", "no.such.host.invalid"):
        assert f"--host {host}" in refusal(checks.check_address, address(host=host))


def test_unix_sockets(tmp_path: Path) -> None:
    checks.check_address(address(uds=str(tmp_path / "socket")))
    (tmp_path / "file").write_text("")
    assert "--uds" in refusal(checks.check_address, address(uds=str(tmp_path / "file")))
    assert "--uds" in refusal(checks.check_address, address(uds=str(tmp_path / "no" / "s")))


def model_args(**fields: Any) -> Namespace:
    return Namespace(**{"hf_config_path": None, "load_format": "auto", "revision": None} | fields)


def test_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    for name in (str(tmp_path / "none"), "./none", "~/none/at/all", "a/b/c", "/"):
        assert "config.json" in (said := refusal(checks.check_model, name, model_args())) or (
            "there is no folder" in said
        )
    assert "config.json" in refusal(checks.check_model, str(tmp_path), model_args())
    (tmp_path / "config.json").write_text("{}")
    checks.check_model(str(tmp_path), model_args())
    checks.check_model("s3://bucket/model", model_args())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    message = refusal(checks.check_model, "nobody/nothing-steersman", model_args())
    assert "HF_HUB_OFFLINE" in message


def test_a_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", unreachable)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    message = refusal(checks.check_model, "nobody/nothing-steersman", model_args())
    assert "cannot be reached" in message
    assert "--demo" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_num_seqs", 0), ("shutdown_timeout", -1), ("max_model_len", 0), ("block_size", 0)],
)
def test_numbers_that_can_only_fail(name: str, value: int) -> None:
    fine = {"max_num_seqs": 1, "shutdown_timeout": 0, "max_model_len": None, "block_size": 32}
    checks.check_numbers(Namespace(**fine))
    message = refusal(checks.check_numbers, Namespace(**fine | {name: value}))
    assert message.startswith("--" + name.replace("_", "-"))


def test_much_is_known_before_vllm_is_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        for argv, said in (
            ([], "no model is named"),
            (["./none/at/all"], "there is no folder ./none/at/all"),
            (["--demo", "--library", str(tmp_path / "file")], "is a file"),
            (["--demo", "--port", port], f"--port {port} is in use"),
            (["--demo", "--port=99999"], "--port 99999"),
            (["--demo", "--uds", str(tmp_path / "no" / "socket")], "--uds"),
        ):
            assert serve(argv) == 1
            (line,) = capsys.readouterr().err.splitlines()
            assert line.startswith("steersman serve: ")
            assert said in line
