"""Sentences to report on, and others to choose or to learn by: the best of hundreds looks better on what chose it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pytest_bertology.errors import InvalidArgument
from pytest_bertology.tasks.conllu import Sentence, TreesLike, read_conllu


class TwoParts(NamedTuple):
    """Sentences with trees, in two parts that share no text."""

    reported: Sequence[Sentence]
    others: Sequence[Sentence]
    data: str
    """The name of those reported on."""
    source: str
    """The name of the others."""
    left_out: int
    """How many of the others were reported on as well, and so left out."""


def two_parts(conllu: TreesLike, others: TreesLike | None, argument: str, what_for: str) -> TwoParts:
    """Read both parts; without others, every second sentence is reported on and the rest are the others.

    `argument` names the others, and `what_for` says what they are for ("choose by"), for messages. Raises
    InvalidArgument where there are none left, and what `read_conllu` raises.
    """
    reported = read_conllu(conllu)
    data = _name(conllu, reported)
    if others is not None:
        chosen = read_conllu(others)
        source = _name(others, chosen)
    elif len(reported) < 2:
        expected = f"two sentences or more, of which every second is one to {what_for}"
        raise InvalidArgument("conllu", f"{data} (1 sentence)", expected)
    else:
        chosen, reported = reported[::2], reported[1::2]
        data, source = f"{data} (every second)", f"{data} (the others)"
    texts = {sentence.text for sentence in reported}
    kept = [sentence for sentence in chosen if sentence.text not in texts]
    if not kept:
        expected = f"sentences to {what_for} that are not all among those reported on"
        raise InvalidArgument("conllu" if others is None else argument, source, expected)
    return TwoParts(reported, kept, data, source, len(chosen) - len(kept))


def _name(source: TreesLike, sentences: Sequence[Sentence]) -> str:
    if isinstance(source, str | os.PathLike):
        return Path(source).name
    digest = hashlib.sha256(repr([sentence.text for sentence in sentences]).encode()).hexdigest()[:4]
    return f"{len(sentences)} sentences (#{digest})"
