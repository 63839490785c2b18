"""Comparisons with baselines that an earlier session made of the same value: told again, without making the value."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pytest_bertology.checks.verdicts import Verdict, hearing
from pytest_bertology.deferred.calls import remembered
from pytest_bertology.plugin.baselines import CHECK, Noted, Running, _shown, model_of

if TYPE_CHECKING:
    from pytest_bertology.baselines.comparison import Comparison, Limits


def judged_once(
    running: Running, value: Any, name: str | None, limits: Limits, judge: Callable[[], Comparison]
) -> Comparison:
    """What `judge` finds, or found of the same value, model, limits and entries of this test's file."""
    __tracebackhide__ = True
    noted = running.noted
    assert noted is not None, running.item
    kept = {key: entry for key, entry in running.entries(noted.file).items() if key.rpartition("/")[0] == noted.test}
    # A path alone would stand for all that is in the file.
    where = f"beside {_shown(noted.file, running.config.rootpath)}"
    asked = [value, model_of(running), name, limits, noted.test, where, json.dumps(kept, sort_keys=True)]
    with hearing(lambda verdict: _note(verdict, noted)):
        found: Comparison = remembered(CHECK, asked, judge)
    return found


def _note(verdict: Verdict, noted: Noted) -> None:
    """Which entry was asked for; one name in a test stands for one value."""
    about = verdict.details.get("baseline") if verdict.check == CHECK else None
    if about is None:
        return
    key, digest = about["name"], about["value"]
    noted.ask(key, digest)
    if about["better"] and key not in noted.better:
        noted.better.append(key)
