"""The pytest plugin: hooks only. Nothing heavy is imported until a test asks for a model.

Options are in `options`, fixtures in `fixtures`, what a session shares in `session`, reports in `summary`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import FunctionType, ModuleType, TracebackType
from typing import Any

import pytest

from pytest_bertology.measures.own_methods import methods_from
from pytest_bertology.plugin import baselines, figures, gpu_shares, multiplicity, noise, options, reports, workers
from pytest_bertology.plugin.baselines import bertology_baseline, bertology_reference
from pytest_bertology.plugin.command_line import rerun_command, rootdir_hint
from pytest_bertology.plugin.fixtures import (
    _bertology_mask_of_test,
    attention_maps,
    bertology_model,
    bertology_task,
    head_importance,
    head_mask,
    hidden_states,
    load_bertology_model,
)
from pytest_bertology.plugin.own_methods import own_methods
from pytest_bertology.plugin.parametrization import parametrize
from pytest_bertology.plugin.session import Session, mask_key, session_key, verdicts_key
from pytest_bertology.plugin.summary import Gathered, each_last, plain

__all__ = [
    "_bertology_mask_of_test",
    "attention_maps",
    "bertology_baseline",
    "bertology_model",
    "bertology_reference",
    "bertology_task",
    "head_importance",
    "head_mask",
    "hidden_states",
    "load_bertology_model",
]

_FIXTURES = frozenset(__all__) - {"_bertology_mask_of_test"}
_PLUGIN = Path(__file__).parent
_gathered_key = pytest.StashKey[Gathered]()


def pytest_addoption(parser: pytest.Parser) -> None:
    options.add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from pytest_bertology.plugin import newhooks

    pluginmanager.add_hookspecs(newhooks)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    gpu_shares.enable(early_config)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "bertology(model=..., task=..., split=..., text=..., label=..., metric=..., kind=..., tokenizer=..., "
        "importance=..., heads_masked=[(layer, head), ...]): which model and task the bertology fixtures of this test "
        "give, how heads are ranked, and which heads are masked while it runs. Goes before the command line, the "
        "environment and the ini file.",
    )
    config.addinivalue_line(
        "markers",
        "gpu: the test needs a CUDA device; skipped with a reason where there is none, failed under "
        "--bertology-require-gpu.",
    )
    gpu_shares.enable(config)
    config.stash[session_key] = session = Session(config, options.Settings(config))
    session.stack.enter_context(methods_from(lambda name: own_methods(config, name)))
    figures.enable(config, session.settings)
    baselines.enable(config, session.settings)
    workers.enable(config, session.settings, _concerns)
    config.stash[_gathered_key] = Gathered()
    config.pluginmanager.register(config.stash[_gathered_key], "bertology-gathered")
    multiplicity.enable(config, session.settings, config.stash[_gathered_key])
    noise.enable(config, session.settings, config.stash[_gathered_key], _concerns)
    reports.enable(config, session.settings, config.stash[_gathered_key], _concerns)


def pytest_unconfigure(config: pytest.Config) -> None:
    session = config.stash.get(session_key, None)
    if session is not None:
        session.close()


def pytest_report_header(config: pytest.Config) -> list[str]:
    settings = config.stash[session_key].settings
    return settings.header() + gpu_shares.header(config, settings) + rootdir_hint(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    session = metafunc.config.stash[session_key]
    try:
        parametrize(metafunc, session.settings)
    except pytest.UsageError as error:
        if hasattr(metafunc.config, "workerinput"):
            raise pytest.Collector.CollectError(str(error)) from None
        session.misused.append(str(error))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config) -> None:
    """Refuse misused markers once all are known: raised during collection, they would be errors of a test file."""
    misused = config.stash[session_key].misused
    if misused:
        raise pytest.UsageError(*dict.fromkeys(misused))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None or not _concerns(item):
        return
    import torch

    if not torch.cuda.is_available():
        item.config.stash[session_key].missing_gpu("the test is marked gpu")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Run the test under its head mask, listen to its checks, and put the models it used back as they were."""
    names = getattr(item, "fixturenames", ())
    if not _concerns(item) and "request" not in names:
        return (yield)
    from pytest_bertology.checks.verdicts import accepting_inconclusive, hearing

    item.stash[verdicts_key] = verdicts = []
    session = item.config.stash[session_key]
    session.adopt(getattr(item, "funcargs", {}).get("bertology_model"))
    unnamed = "request" in names and "bertology_model" not in names
    with _models_put_back(item, "call"), session.calling(unnamed) as stack:
        stack.enter_context(hearing(lambda verdict: verdicts.append(plain(verdict.to_jsonable()))))
        if session.settings.value("inconclusive") == "warn":
            stack.enter_context(accepting_inconclusive())
        mask = item.stash.get(mask_key, None)
        if mask is not None and mask.touched:
            stack.enter_context(item.funcargs["bertology_model"].masked(mask))  # type: ignore[attr-defined]
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    """What a fixture did to a model, in a set-up that failed or after the test, is not held against the next test."""
    if not (_concerns(item) and _fixtures_may_have_changed_models(item)):
        return (yield)
    with _models_put_back(item, "teardown"):
        return (yield)


@contextmanager
def _models_put_back(item: pytest.Item, when: str) -> Iterator[None]:
    """Put all models back as they were; fail where weights were changed."""
    session = item.config.stash[session_key]
    contexts = session.contexts_open()
    try:
        yield
    except BaseException:
        if when == "call":
            session.close_contexts(contexts)
        for text in session.restore_models():
            item.add_report_section(when, "bertology", text)
        raise
    if when == "call":
        session.close_contexts(contexts)
    changed = session.restore_models()
    if changed:
        pytest.fail("\n".join(changed), pytrace=False)


def _fixtures_may_have_changed_models(item: pytest.Item) -> bool:
    """Whether the call was never reached, or fixtures that are not ours are torn down after it."""
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    others = {*getattr(item, "fixturenames", ())} - _FIXTURES - {"_bertology_mask_of_test", "request", *parameters}
    return verdicts_key not in item.stash or bool(others)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Cut this package's internals from tracebacks of its own errors, and add verdicts and the command to rerun."""
    concerned = _concerns(item)
    if concerned and not item.config.getoption("fulltrace"):
        _cut_internals(call)
    report: pytest.TestReport = yield
    if concerned:
        verdicts = item.stash.get(verdicts_key, []) if call.when == "call" else []
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            verdicts = each_last(verdicts)
        report.bertology_verdicts = verdicts  # type: ignore[attr-defined]
        if report.failed:
            report.sections.append(
                ("bertology", f"rerun: {rerun_command(item, item.config.stash[session_key].settings)}")
            )
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    warn = config.stash[session_key].settings.value("inconclusive") == "warn"
    lines = config.stash[_gathered_key].lines("--bertology-inconclusive=warn" if warn else "")
    told = config.stash[session_key].told_of_store()
    if lines or told:
        terminalreporter.section("bertology")
        for line in lines:
            terminalreporter.line(
                line, red=line.startswith(("  FAILED", "  ERROR")), yellow="  INCONCLUSIVE" in line[:16]
            )
        if told:
            terminalreporter.line(told)


def _concerns(item: pytest.Item) -> bool:
    """Whether this plugin has anything to do with a test: it uses a fixture or marker of ours, or imports us."""
    if not _FIXTURES.isdisjoint(getattr(item, "fixturenames", ())) or item.get_closest_marker("bertology"):
        return True
    module = getattr(item, "module", None)
    return module is not None and _imports_us(module)


@lru_cache(maxsize=1024)
def _imports_us(module: ModuleType) -> bool:
    """Whether one of a test module's globals is ours."""
    return any(_home(value).split(".")[0] == "pytest_bertology" for value in vars(module).values())


def _home(value: object) -> str:
    """Where a module, class or function is from. Nothing else is asked: a lazy module or proxy might come to life."""
    kind = type(value)
    if kind.__module__ == "pytest_bertology":
        return kind.__module__
    if issubclass(kind, ModuleType):
        home = ModuleType.__getattribute__(value, "__dict__").get("__name__")
    else:
        home = getattr(value, "__module__", None) if issubclass(kind, (type, FunctionType)) else None
    return home if isinstance(home, str) else ""


def _cut_internals(call: pytest.CallInfo[None]) -> None:
    """End the traceback of an error of our own where it enters the package, and leave out what it was made from.

    Its message says what to do; `--full-trace` shows all.
    """
    from pytest_bertology.checks.verdicts import CheckFailed
    from pytest_bertology.errors import BertologyError

    excinfo = call.excinfo
    if excinfo is None or not isinstance(excinfo.value, BertologyError | CheckFailed):
        return
    entries: list[TracebackType] = []
    entry = excinfo.value.__traceback__
    while entry is not None and not _internal(Path(entry.tb_frame.f_code.co_filename)):
        entries.append(entry)
        entry = entry.tb_next
    if entry is None or not entries:
        return
    cut: TracebackType | None = None
    for kept in reversed(entries):
        cut = TracebackType(cut, kept.tb_frame, kept.tb_lasti, kept.tb_lineno)
    excinfo.value.__cause__, excinfo.value.__suppress_context__ = None, True
    call.excinfo = pytest.ExceptionInfo.from_exception(excinfo.value.with_traceback(cut))


def _internal(path: Path) -> bool:
    """Whether a file is the package's, and not one of those whose frames wrap a test and stand before it."""
    return _PLUGIN.parent in path.parents and path not in (_PLUGIN / "__init__.py", _PLUGIN / "fixtures.py")
