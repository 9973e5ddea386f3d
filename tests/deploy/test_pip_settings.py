"""What the pip inside an image's build is given of the pip outside it."""

from pathlib import Path

from deploy.image.pip_settings import configuration, folders, settings


def test_the_environment_goes_before_files() -> None:
    listing = (
        ":env:.index-url='https://c.example/simple'\n"
        ":env:.default-timeout='180'\n"
        "global.index-url='https://a.example/simple'\n"
        "install.index-url='https://b.example/simple'\n"
        "install.find-links='/x'\n"
        "global.find-links='/y'\n"
        "download.proxy='http://p.example'\n"
    )
    assert settings(listing) == {
        "index-url": "https://c.example/simple",
        "timeout": "180",
        "find-links": "/x",
    }


def test_only_where_packages_come_from_is_carried() -> None:
    found = {
        "extra-index-url": "http://i.example/simple\nhttps://e.example/simple",
        "cert": "/etc/ours.crt",
        "constraint": "/etc/constraints.txt",
        "require-virtualenv": "true",
    }
    assert configuration(found, None) == (
        "[global]\n"
        "extra-index-url = http://i.example/simple https://e.example/simple\n"
        "cert = /run/secrets/ca\n"
    )
    assert configuration({}, "/mnt") == "[global]\n"


def test_local_folders(tmp_path: Path) -> None:
    (tmp_path / "index" / "simple").mkdir(parents=True)
    (tmp_path / "wheels").mkdir()
    found = {
        "index-url": "https://pypi.org/simple",
        "extra-index-url": f"file://{tmp_path}/index/simple/ https://e.example/simple",
        "find-links": f"{tmp_path}/wheels {tmp_path}/gone https://f.example/links.html",
    }
    assert folders(found) == [f"{tmp_path}/index", f"{tmp_path}/wheels"]
    assert configuration(found, "/mnt") == (
        "[global]\n"
        "index-url = https://pypi.org/simple\n"
        "extra-index-url = file:///mnt/0/simple https://e.example/simple\n"
        "find-links = file:///mnt/1 https://f.example/links.html\n"
    )
    assert configuration(found, None) == (
        "[global]\n"
        "index-url = https://pypi.org/simple\n"
        "extra-index-url = https://e.example/simple\n"
        "find-links = https://f.example/links.html\n"
    )
