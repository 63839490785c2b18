"""The site is built without a warning, asks no other server for anything, and is the same when built again.

Oracle: MkDocs in strict mode, and the addresses in the pages that it wrote.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

pytestmark = pytest.mark.slow

pytest.importorskip("mkdocs", reason="mkdocs is in the extra 'docs'")
pytest.importorskip("mkdocstrings", reason="mkdocstrings is in the extra 'docs'")

_FETCHED = re.compile(r'<(?:script|img|iframe|source)[^>]*\ssrc="?(https?:)?//|<link[^>]*\shref="?(https?:)?//', re.I)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_no_page_fetches_anything_from_another_server(site):
    fetching = {page.name: _FETCHED.search(page.read_text("utf-8")) for page in site.rglob("*.html")}

    assert {name: found.group() for name, found in fetching.items() if found} == {}
    assert "fonts.googleapis" not in (site / "index.html").read_text("utf-8")


def test_the_reference_shows_signatures_and_docstrings(site):
    page = (site / "reference" / "evaluation.html").read_text("utf-8")

    assert 'id="pytest_bertology.assert_metric_retained"' in page
    assert "tolerance" in page


def test_directives_and_hooks_do_not_show(site):
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        assert "<p>:::" not in text, page
        assert "<!-- table of" not in text, page
    assert not (site / "hooks.py").exists()


def test_search_finds_errors_and_checks(site):
    index = (site / "search" / "search_index.json").read_text("utf-8")

    assert "MaskNotApplied" in index
    assert "assert_metric_retained" in index
