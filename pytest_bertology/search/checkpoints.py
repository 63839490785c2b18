"""What a search has evaluated, kept in a file from which it goes on after an interruption."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pytest_bertology.errors import CannotResume
from pytest_bertology.files import written_whole

_SCHEMA = "pytest-bertology search 1"
_NOTICED = 0.1
"""Seconds that writing may take each time."""


class Measured(NamedTuple):
    """A model's results on each task."""

    scores: tuple[float | None, ...]
    """None where the metric has no value."""
    losses: tuple[float, ...]


class Checkpoint:
    """The results of a search so far; with a path, also in a file, which is replaced whole at every save.

    `identity` names all that the results and the way of the search depend on. Raises CannotResume for a file that is
    damaged, or of another search.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        self.path = path
        self._cost, self._saved = 0.0, 0.0
        self.identity = dict(identity)
        self.baselines: Measured | None = None
        self.evaluated: dict[int, Measured] = {}
        """By set of heads."""
        self.rankings: dict[int, list[float]] = {}
        """Importance scores under sets of heads."""
        if path is not None and path.exists():
            self._read(path)

    def save(self, *, now: bool = False) -> None:
        """Write the file, first under another name: a kill leaves the file as it was before.

        Once there are so many sets that writing takes a while, it is done less often, unless it has to be `now`: at
        most a twentieth of the time goes into it, and a kill loses at most what was found since.
        """
        began = time.monotonic()
        if self.path is None or (not now and self._cost > _NOTICED and began - self._saved < 20 * self._cost):
            return
        content = {
            "schema": _SCHEMA,
            "search": self.identity,
            "baselines": self.baselines,
            "evaluated": {f"{bits:x}": found for bits, found in self.evaluated.items()},
            "rankings": {f"{bits:x}": values for bits, values in self.rankings.items()},
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(self.path) as temporary, temporary.open("w", encoding="utf-8") as file:
                json.dump(content, file)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise CannotResume(str(self.path), f"it cannot be written ({error})") from error
        self._saved = time.monotonic()
        self._cost = self._saved - began

    def _read(self, path: Path) -> None:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["schema"] != _SCHEMA:
                raise CannotResume(str(path), f"its schema is {content['schema']!r}; this version reads {_SCHEMA!r}")
            identity = dict(content["search"])
            baselines = content["baselines"]
            self.baselines = None if baselines is None else _measured(baselines)
            self.evaluated = {int(bits, 16): _measured(found) for bits, found in content["evaluated"].items()}
            self.rankings = {int(bits, 16): [*map(float, v)] for bits, v in content["rankings"].items()}
        except OSError as error:
            raise CannotResume(str(path), f"it cannot be read ({error})") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, CannotResume):
                raise
            raise CannotResume(
                str(path), f"it is not a search's checkpoint ({type(error).__name__}: {error})"
            ) from error
        ours = json.loads(json.dumps(self.identity))
        other = sorted(name for name in {*ours, *identity} if ours.get(name) != identity.get(name))
        if other:
            raise CannotResume(str(path), f"it is of another search: its {', '.join(other)} differ")


def _measured(found: Any) -> Measured:
    scores, losses = found
    return Measured(tuple(None if x is None else float(x) for x in scores), tuple(float(x) for x in losses))
