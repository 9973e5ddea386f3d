"""The generated pages are what the code says, and the site builds with all of its links."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools.docs.__main__ import DOCS, PAGES

ROOT = DOCS.parent


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_up_to_date(name: str) -> None:
    written = (DOCS / name).read_text(encoding="utf-8")
    assert written == PAGES[name](), "run `python -m tools.docs`"


def test_the_site_builds_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "https://fonts." not in page


def test_links_of_the_pages_outside_the_site_lead_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), ROOT / "deploy" / "README.md"]
    links = [
        (page, link)
        for page in pages
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
        if not link.startswith("http")
    ]
    assert len(links) > 20
    missing = [(page.name, link) for page, link in links if not (page.parent / link).exists()]
    assert not missing
