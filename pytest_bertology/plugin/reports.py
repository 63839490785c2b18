"""Reports for files, CI pages and other tools: JSON, HTML, Markdown, JUnit properties, extras of pytest-html."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable, Generator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from pytest_bertology.files import written_whole
from pytest_bertology.plugin.figures import pytest_html_active
from pytest_bertology.plugin.options import Settings
from pytest_bertology.plugin.session import session_key, verdicts_key
from pytest_bertology.plugin.summary import Gathered, write_json
from pytest_bertology.plugin.workers import is_worker
from pytest_bertology.report.wording import merged, outcome_of, sentence

_NO_FIGURES = 'For figures install matplotlib: pip install "pytest-bertology[figures]".'
_SUMMARY = "GITHUB_STEP_SUMMARY"
_PROPERTIES = ("model", "task", "check", "outcome", "observed", "required", "p_value")


def enable(
    config: pytest.Config, settings: Settings, gathered: Gathered, concerns: Callable[[pytest.Item], bool]
) -> None:
    """Note on reports what JUnit and pytest-html show; at the end write the reports that were asked for."""
    html = pytest_html_active(config)
    config.pluginmanager.register(Noting(concerns, html), "bertology-noting")
    if not is_worker(config):
        config.pluginmanager.register(Writing(settings, gathered), "bertology-writing")


class Noting:
    """Adds to the reports of tests, in workers too, what other tools show of them."""

    def __init__(self, concerns: Callable[[pytest.Item], bool], html: bool) -> None:
        self._concerns = concerns
        self._html = html

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        """Note provenance, JUnit's properties, and extras of pytest-html."""
        verdicts = item.stash.get(verdicts_key, [])
        if call.when == "call" and self._concerns(item):
            item.user_properties += properties(verdicts)  # before the report is made, which copies them
        report = yield
        if call.when == "call" and self._concerns(item):
            from pytest_bertology.plugin.provenance import provenance_of

            report.bertology_provenance = provenance_of(item, item.config.stash[session_key], verdicts)
        if call.when == "teardown" and self._html:
            pictures = getattr(report, "bertology_figures", {}).get("pictures", [])
            found = extras(verdicts, pictures)
            if found:
                report.extras = [*getattr(report, "extras", []), *found]
        return report


def properties(verdicts: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Names and values for JUnit, of each kind of verdict; those of the second kind end in `_2`, and so on."""
    found = []
    for number, verdict in enumerate(merged(verdicts), 1):
        for name in _PROPERTIES:
            value = outcome_of(verdict) if name == "outcome" else verdict.get(name)
            if value is not None:
                found.append((f"bertology_{name}{f'_{number}' * (number > 1)}", _written(value)))
    return found


def _written(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(value)


def extras(verdicts: list[dict[str, Any]], pictures: list[dict[str, str]]) -> list[dict[str, Any]]:
    """What pytest-html shows beside a test: each check in a sentence, what explains it, and figures."""
    from markupsafe import escape
    from pytest_html import extras as made

    from pytest_bertology.report.text import visible

    found = []
    for verdict in merged(verdicts):
        told = f"{verdict['check']} {outcome_of(verdict)}: {sentence(verdict)}"
        page = f"<pre>{escape(visible(verdict['message']))}</pre>" if verdict.get("message") else ""
        found.append(made.html(f"<div><p>{escape(visible(told))}</p>{page}</div>"))
    for each in pictures:
        name = visible(each["title"].replace("\n", ", "))
        found.append(made.svg(b64encode(each["svg"].encode()).decode(), str(escape(name))))
    return found


class Writing:
    """Writes the reports of a run, once it is over; what cannot be written is told, and the run fails."""

    def __init__(self, settings: Settings, gathered: Gathered) -> None:
        self._settings = settings
        self._gathered = gathered

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Write what was asked for, and the summary of a job on GitHub."""
        gathered, settings = self._gathered, self._settings
        status = int(session.exitstatus or exitstatus)
        if gathered.problems:
            session.exitstatus = status = status or int(pytest.ExitCode.INTERNAL_ERROR)
        asked = [(name, settings.value(f"report_{name}")) for name in ("json", "html", "markdown")]
        page = os.environ.get(_SUMMARY) if gathered.tests else None
        if not page and not any(path for _, path in asked):
            return
        content = gathered.content(settings, status)
        for name, path in asked:
            if path:
                self._write(name, Path(path), content)
        if page:
            self._append(Path(page), content)
        if gathered.problems:
            session.exitstatus = status or pytest.ExitCode.INTERNAL_ERROR

    def _write(self, name: str, path: Path, content: dict[str, Any]) -> None:
        try:
            if name == "json":
                write_json(content, path)
            elif name == "html":
                _write_text(path, self._page(content))
                self._gathered.notes.append(f"HTML report: {path}")
            else:
                from pytest_bertology.report.markdown import markdown

                _write_text(path, markdown(content))
        except OSError as error:
            self._gathered.problems.append(f"the report {path} could not be written: {error}")

    def _page(self, content: dict[str, Any]) -> str:
        from pytest_bertology.report.html.page import page

        note = "" if find_spec("matplotlib") is not None else _NO_FIGURES
        return page(content, self._gathered.pictures, note=note)

    def _append(self, path: Path, content: dict[str, Any]) -> None:
        """Add to the summary of the job's step, which other tools write to as well. Nobody asked: no reason to fail."""
        from pytest_bertology.report.markdown import LIMIT, markdown

        try:
            known = path.stat().st_size if path.exists() else 0
            text = "\n" * bool(known) + markdown(content, limit=LIMIT - known - 1)
            with path.open("a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            self._gathered.notes.append(f"the summary {path} ({_SUMMARY}) could not be written: {error}")


def _write_text(path: Path, text: str) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
