"""The documentation as a site: built without warnings, with working links, and without foreign content."""

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.support import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.mark.whole
def test_every_link_of_the_site_leads_to_a_file(site: Path) -> None:
    pages = sorted(site.glob("*.html"))
    assert len(pages) > 15
    for page in pages:
        for link in re.findall(r'(?:href|src)="([^"]+)"', page.read_text()):
            parts = urlsplit(link)
            if page.name == "404.html" or parts.scheme or not parts.path:
                continue
            target = (page.parent / unquote(parts.path)).resolve()
            assert target.exists(), f"{page.name}: {link}"


@pytest.mark.whole
def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.glob("*.html"):
        for tag in re.findall(r"<(?:script|img|link|iframe)[^>]*>", page.read_text()):
            loaded = re.findall(r'(?:src|href)="(?:https?:)?//[^"]*"', tag)
            assert not loaded or 'rel="canonical"' in tag, f"{page.name}: {tag}"


@pytest.mark.whole
def test_the_site_can_be_searched(site: Path) -> None:
    assert "champion" in (site / "search/search_index.json").read_text()
