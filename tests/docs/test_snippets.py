"""Every fenced block of README.md and docs/ is run, in order, in a folder of its page's own, and shows what it shows.

Oracle: the pages themselves. Blocks that are not run say why; they must parse, and name nothing that is not public.
"""

from __future__ import annotations

import ast

import pytest

import pytest_bertology
from tests.docs.blocks import PAGES, ROOT, Block, blocks
from tests.docs.running import Page, parsed, shows

LANGUAGES = {"python", "sh", "text", "toml", "ini", "yaml", "json", ""}
RUN = [page for page in PAGES if any(block.not_run is None and block.language for block in blocks(page))]
NOT_RUN = [block for page in PAGES for block in blocks(page) if block.not_run is not None]


@pytest.mark.slow
@pytest.mark.parametrize("path", RUN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_does_what_it_says(path, page: Page, monkeypatch):
    if "bertology_store" in path.read_text("utf-8") or "--bertology-store" in path.read_text("utf-8"):
        monkeypatch.delenv("BERTOLOGY_STORE")  # the page has a store of its own

    page.run(list(blocks(path)))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_blocks_are_in_languages_that_are_run_or_read(path):
    assert {block.language for block in blocks(path)} <= LANGUAGES


@pytest.mark.parametrize("block", NOT_RUN, ids=str)
def test_a_block_that_is_not_run_says_why(block: Block):
    parsed(block)
    assert block.not_run

    pytest.skip(f"not run: {block.not_run}")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_page_imports_is_public(path):
    imported = {
        alias.name
        for block in blocks(path)
        if block.language == "python"
        for node in ast.walk(ast.parse(block.text))
        if isinstance(node, ast.ImportFrom) and node.module == "pytest_bertology"
        for alias in node.names
    }

    assert imported - {"*"} <= {*pytest_bertology.__all__, "errors"}


@pytest.mark.parametrize(
    ("expected", "output", "holds"),
    [
        ("a  b\nc", "x\na b\n  c\ny", True),
        ("a … c", "a b\nc", True),
        ("passed in …s", "1 passed in 3.2s", True),
        ("a c", "a b c", False),
        ("1.5 (x)", "195 (x)", False),
    ],
)
def test_shown_output_is_compared_but_for_white_space_and_dots(expected, output, holds):
    assert shows(expected, output) is holds
