"""Every public name, error, option, marker argument, fixture and hook has its place in the documentation.

Oracle: the package's own lists; the navigation that MkDocs reads.
"""

from __future__ import annotations

import inspect
import re
from importlib import util
from typing import Any

import pytest

import pytest_bertology
from pytest_bertology.checks.verdicts import CheckFailed, Inconclusive
from pytest_bertology.plugin import newhooks
from pytest_bertology.plugin.options import MARKER_ARGUMENTS, OPTIONS
from tests.docs.blocks import DOCS, PAGES, ROOT, blocks

_DIRECTIVE = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def hooks() -> Any:
    """docs/hooks.py, as MkDocs loads it."""
    spec = util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def errors(hooks) -> dict[str, type[Exception]]:
    return {**hooks.all_errors(), "CheckFailed": CheckFailed, "Inconclusive": Inconclusive}


def described(folder: str) -> list[str]:
    """What the pages of a folder describe with mkdocstrings, as often as they do."""
    return [
        name for page in sorted((DOCS / folder).glob("*.md")) for name in _DIRECTIVE.findall(page.read_text("utf-8"))
    ]


def test_every_public_name_is_described_once():
    names = [name.removeprefix("pytest_bertology.") for name in described("reference")]

    assert sorted(name for name in names if "." not in name) == sorted(pytest_bertology.__all__)


def test_every_fixture_is_described(request):
    from pytest_bertology import plugin

    fixtures = [name for name in plugin.__all__ if not name.startswith("_")]

    assert [name for name in fixtures if not any(each.endswith(f".{name}") for each in described("reference"))] == []


def test_every_hook_is_described():
    hooks = [name for name, _ in inspect.getmembers(newhooks, inspect.isfunction) if name.startswith("pytest_")]

    assert [name for name in hooks if f"pytest_bertology.plugin.newhooks.{name}" not in described("reference")] == []


def test_every_marker_argument_is_described():
    rows = re.findall(r"^\| `(\w+)` \|", (DOCS / "reference" / "marker.md").read_text("utf-8"), re.MULTILINE)

    assert sorted(rows) == sorted(MARKER_ARGUMENTS)


def test_the_table_of_options_has_a_row_for_each(hooks):
    table = hooks.options_table()

    assert table.count("\n") == len(OPTIONS) + 1
    for row, option in zip(table.split("\n")[2:], OPTIONS, strict=True):
        assert row.count(" | ") == 1
        assert [
            name for name in (option.flag_name, option.variable, option.ini, *option.choices) if name not in row
        ] == []


def test_the_table_of_options_is_put_into_its_page(hooks):
    page = (DOCS / "reference" / "options.md").read_text("utf-8")

    assert hooks.options_table() in hooks.on_page_markdown(page)


def test_links_to_options_lead_to_rows_of_the_table(hooks):
    linked = {name for page in PAGES for name in re.findall(r"options\.md#([\w-]+)\)", page.read_text("utf-8"))}

    assert linked <= {option.flag_name[2:] for option in OPTIONS}


def test_every_error_has_a_page_and_every_page_an_error(errors):
    pages = {page.stem for page in (DOCS / "errors").glob("*.md")} - {"index"}

    assert pages == set(errors)


def test_the_page_of_an_error_shows_its_message_and_says_what_to_do(errors):
    for name in errors:
        page = DOCS / "errors" / f"{name}.md"
        text = page.read_text("utf-8")
        shown = [block for block in blocks(page) if block.language == "text"]

        assert text.startswith(f"# {name}\n"), name
        assert f".{name}\n" in text.split("## When")[0], name
        assert len(text.split("## What to do\n")[1].strip()) > 20, name
        assert shown, name
        made = {block.says("raises") or block.says("message of") or block.says("fails") for block in blocks(page)}
        assert made - {None}, f"{name}: no block raises it, and no message is made"


def test_a_reason_for_not_running_a_block_is_shown(hooks):
    shown = hooks.on_page_markdown("a\n\n<!-- not run: it takes an hour -->\n```sh\nsleep 3600\n```\n")

    assert "*Not run by the tests of this documentation: it takes an hour.*\n\n```sh" in shown


def test_the_navigation_names_every_page_once(hooks):
    yaml = pytest.importorskip("yaml")
    config = hooks.on_config({"nav": yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]})

    assert sorted(leaves(config["nav"])) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def leaves(part: Any) -> list[str]:
    if isinstance(part, str):
        return [part]
    children = part.values() if isinstance(part, dict) else part
    return [leaf for child in children for leaf in leaves(child)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_files_lead_somewhere(page):
    links = [link.split("#")[0] for link in _LINK.findall(page.read_text("utf-8")) if "://" not in link]

    assert [link for link in links if link and not (page.parent / link).exists()] == []
    if page != ROOT / "README.md":
        assert [link for link in links if link and not (page.parent / link).resolve().is_relative_to(DOCS)] == []
