"""What MkDocs does with these pages beyond its plugins: the table of options, the list of errors, reasons of blocks.

Deterministic: everything is made from the package's own tables, in their order.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
OPTIONS = "<!-- table of options -->"
ERRORS = "<!-- table of errors -->"
_NOT_RUN = re.compile(r"^(?P<indent> *)<!-- not run: (?P<reason>.+) -->$", re.MULTILINE)


def on_config(config: Any) -> Any:
    """Put the page of every error into the navigation, by name."""
    for part in config["nav"]:
        if isinstance(part, dict) and "Errors" in part:
            pages = sorted(path.name for path in (DOCS / "errors").glob("*.md") if path.name != "index.md")
            part["Errors"] = ["errors/index.md", *(f"errors/{name}" for name in pages)]
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the tables, and show why a block is not run by the tests."""
    if OPTIONS in markdown:
        markdown = markdown.replace(OPTIONS, options_table())
    if ERRORS in markdown:
        markdown = markdown.replace(ERRORS, errors_table())
    return _NOT_RUN.sub(r"\g<indent>*Not run by the tests of this documentation: \g<reason>.*\n", markdown)


def options_table() -> str:
    """Each setting with its three names, what it sets, its values and its default; of `plugin/options.py`."""
    from pytest_bertology.plugin import options

    rows = ["| setting | what it sets |", "|---|---|"]
    for option in options.OPTIONS:
        value = "" if option.flag else f"={option.metavar or option.name.upper()}"
        names = (f"{option.flag_name}{value}", option.variable, option.ini)
        said = [_cell(option.help)]
        if option.many:
            said.append("may be repeated; in the variable with commas between")
        if option.choices:
            others = f", or {option.others}" if option.others else ""
            said.append("one of " + ", ".join(f"`{choice}`" for choice in option.choices) + others)
        if option.default or option.flag:
            said.append(f"default: {f'`{option.default}`' if option.default else 'off'}")
        shown = "<br>".join(f'<code class="setting">{name}</code>' for name in names)
        rows.append(f'| <span id="{option.flag_name[2:]}"></span>{shown} | {"; ".join(said)} |')
    return "\n".join(rows)


def errors_table() -> str:
    """Each error with the first line of its docstring."""
    rows = ["| error | what it is |", "|---|---|"]
    for name, error in sorted(all_errors().items()):
        rows.append(f"| [{name}]({name}.md) | {_cell(str(error.__doc__).splitlines()[0])} |")
    return "\n".join(rows)


def all_errors() -> dict[str, type[Exception]]:
    """Every error that the package raises on purpose, by name: of `errors` and wherever else one is defined."""
    import pytest_bertology
    from pytest_bertology.errors import BertologyError

    for module in pkgutil.walk_packages(pytest_bertology.__path__, "pytest_bertology."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found: dict[str, type[Exception]] = {}
    left = [BertologyError]
    while left:
        for error in left.pop().__subclasses__():
            if error.__module__.startswith("pytest_bertology") and not error.__name__.startswith("_"):
                found[error.__name__] = error
                left.append(error)
    return found


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
