"""Calls of public functions: answered from memory where the same was asked before, else made and kept.

What a call did beside returning something is given again: its verdicts, its warnings, what it announced, and the
failure of a check.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from pytest_bertology.checks.verdicts import CheckFailed, Inconclusive, Verdict, hearing, tell, unheard
from pytest_bertology.deferred.describing import Undescribed, described
from pytest_bertology.deferred.handles import Answer, is_value, seen_of, unwrapped
from pytest_bertology.deferred.memory import Memory, current_memory
from pytest_bertology.deferred.plain import NotPlain, decode, encode
from pytest_bertology.engine.announcing import Announcement, heard, listening, pictured, unannounced
from pytest_bertology.errors import BertologyWarning, StoreWarning

NOT_ANSWERED = frozenset({
    "assert_faster", "timing",  # the clock says something else each time
    "constant_attention", "erase", "using_importance_method", "using_store",  # contexts, and what goes into them
    "blocks", "load_embedded_model", "load_embedded_task", "load_model", "load_task", "read_conllu",  # live things
    "save_figure",  # done for what it does
})  # fmt: skip
"""Public functions that are always called."""
_PACKAGE = Path(__file__).parents[1]
_RAISED = {"CheckFailed": CheckFailed, "Inconclusive": Inconclusive}


def answer(name: str, function: Callable[[], Callable[..., Any]], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the public function `name`, which `function` imports, or answer for it."""
    __tracebackhide__ = True
    if name in NOT_ANSWERED:
        return function()(*unwrapped(args), **unwrapped(kwargs))
    return remembered(name, [args, kwargs], lambda: function()(*unwrapped(args), **unwrapped(kwargs)))


def remembered(what: str, asked: Any, compute: Callable[[], Any]) -> Any:
    """What `compute` returns, or what it returned and did when the same was asked before.

    `asked` is all that it depends on. Without a memory in use, and where something of it cannot be described (a
    function, a live model, a model that is not as it was loaded), it is computed.
    """
    __tracebackhide__ = True
    memory = current_memory()
    if memory is None:
        return compute()
    try:
        key = memory.key("call", what, described(asked))
    except Undescribed:
        memory.compute()
        return compute()
    found = memory.find(key)
    if found is not None and _shows_all(found):
        memory.answered += 1
        return _given_again(memory, key, found, compute)
    memory.compute()
    memory.computed += 1
    return _computed(memory, key, compute)


def _shows_all(found: Mapping[str, Any]) -> bool:
    """Whether everybody who listens can be told what was announced: some want pictures, some the results themselves."""
    kept = found["announced"]
    return not kept or (
        not heard("values") and (not heard("pictures") or all(each["picture"] is not None for each in kept))
    )


def _given_again(memory: Memory, key: str, found: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
    __tracebackhide__ = True
    for text in found["warnings"]:
        warnings.warn_explicit(text, BertologyWarning, *_asked_at())
    for each in found["announced"] if heard("pictures") else ():
        if not each["picture"]:
            continue
        pictured(Announcement(each["kind"], None, each["model"], each["task"], each["state"], each["picture"]))
    verdicts = [_verdict(each) for each in found["verdicts"]]
    for verdict in verdicts:
        tell(verdict)
    if found["raised"]:
        _fail(_RAISED[found["raised"]](found["message"], verdicts[-1]))
    if "value" in found:
        return decode(found["value"])

    def again() -> Any:
        with unheard(), unannounced(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return compute()

    return Answer(key, again, memory, found)


def _computed(memory: Memory, key: str, compute: Callable[[], Any]) -> Any:
    """Compute, and keep what came of it: a value or a failed check. Other errors may have other causes another time."""
    __tracebackhide__ = True
    verdicts: list[Verdict] = []
    announced: list[Announcement] = []
    failure: CheckFailed | None = None
    value: Any = None
    with _warned_of() as told, hearing(verdicts.append), listening(announced.append, wants="nothing"):
        try:
            value = compute()
        except CheckFailed as error:
            failure = error
    record: dict[str, Any] = {
        "raised": "" if failure is None else type(failure).__name__,
        "message": "" if failure is None else str(failure),
        "verdicts": [_plain(verdict.to_jsonable()) for verdict in verdicts],
        "warnings": told,
        "announced": [_kept(each) for each in announced],
    }
    if failure is not None:
        memory.keep(key, record)
        _fail(failure)
    if hasattr(value, "__next__") or hasattr(value, "__enter__"):
        return value
    if is_value(value):
        with suppress(NotPlain):
            memory.keep(key, record | {"value": encode(value)})
        return value
    memory.keep(key, record | seen_of(value))
    return Answer(key, lambda: value, memory, seen_of(value), value)


def _fail(failure: CheckFailed) -> NoReturn:
    """Raise from one place, computed or answered: Hypothesis takes failures from two places for two, or for flaky."""
    __tracebackhide__ = True
    raise failure.with_traceback(None)


@contextmanager
def _warned_of() -> Iterator[list[str]]:
    """The package's warnings of results within the context; all are given at its end, ours of the caller's line."""
    told: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield told
    for each in caught:
        if issubclass(each.category, BertologyWarning) and not issubclass(each.category, StoreWarning):
            told.append(str(each.message))
            warnings.warn_explicit(each.message, each.category, *_asked_at())
        else:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)


def _asked_at() -> tuple[str, int]:
    """File and line of the call of the package that is under way: where its user wrote it."""
    frame: FrameType | None = sys._getframe(1)
    last = ("pytest_bertology", 0)
    while frame is not None:
        last = (frame.f_code.co_filename, frame.f_lineno)
        if not Path(last[0]).is_relative_to(_PACKAGE) and "contextlib" not in last[0]:
            return last
        frame = frame.f_back
    return last


def _kept(found: Announcement) -> dict[str, Any]:
    """An announcement as plain values, with its picture where somebody wants it."""
    picture = None
    if heard("pictures"):
        from pytest_bertology.report.pictures import picture as drawn

        try:
            picture = asdict(drawn(found))
        except Exception:  # noqa: BLE001 - there is no picture of it: nor will there be another time
            picture = {}
    return {
        "kind": found.kind,
        "model": found.model,
        "task": found.task,
        "state": found.state,
        "picture": picture,
    }


def _verdict(found: Mapping[str, Any]) -> Verdict:
    known = {each.name: found[each.name] for each in fields(Verdict)}
    return Verdict(**{**known, "heads": tuple(known["heads"])})


def _plain(value: Any) -> Any:
    """As JSON has it; numbers of NumPy and torch as Python's."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if value is None or type(value) in (str, bool, int, float):
        return value
    return value.item() if hasattr(value, "item") else str(value)
