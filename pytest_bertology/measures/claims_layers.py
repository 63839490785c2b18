"""Claims about layers: where syntax is, where positions are, and which layers fine-tuning changes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.progress import tracked
from pytest_bertology.engine.texts import TextsLike, read_texts
from pytest_bertology.errors import InvalidArgument, MalformedData, NothingToJudge, UndefinedScore
from pytest_bertology.measures.arguments import check_has_heads
from pytest_bertology.measures.attention_maps import AttentionMaps
from pytest_bertology.measures.claims_catalogue import POSITIONS
from pytest_bertology.measures.claims_finding import (
    EARLY,
    FINAL,
    MIDDLE,
    UNDECIDED,
    ClaimFinding,
    Comparison,
    Examined,
    decide,
    third,
)
from pytest_bertology.measures.probing import probe
from pytest_bertology.measures.probing_data import FIRST, TESTED
from pytest_bertology.measures.probing_report import ProbeReport
from pytest_bertology.measures.relation_intervals import paired_difference
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks import Task, load_task
from pytest_bertology.tasks.conllu import read_conllu
from pytest_bertology.tasks.metrics import SPANS, TOKENS, find_metric
from pytest_bertology.tasks.written import Written

Array = npt.NDArray[np.float64]

_TEXTS_AT_ONCE = 32
_WANTED = "a list of texts, such as ['A sentence.'], or a task of single texts"
_ROUNDING = 1e-6
"""A change of attention that is none: 1 − a cosine of float32."""


def middle_syntax(given: Examined) -> ClaimFinding:
    """See the catalogue."""
    task, train = given.task, given.train
    if task is None:
        task = load_task(read_conllu(given.conllu), label="deprel")
        train = None if train is None else load_task(read_conllu(train), label="deprel")
    task = task.with_metric("accuracy")
    report = probe(
        given.model,
        task,
        train=None if train is None else train.with_metric("accuracy"),
        control=False,
        random_model=False,
        seed=given.seed,
        confidence=given.confidence,
        batching=given.batching,
    )
    return _by_thirds(given, report, MIDDLE)


def early_positions(given: Examined) -> ClaimFinding:
    """See the catalogue."""
    report = probe(
        given.model,
        positions_task(_texts(given)),
        control=False,
        random_model=False,
        pooling=FIRST,
        seed=given.seed,
        confidence=given.confidence,
        batching=given.batching,
    )
    return _by_thirds(given, report, EARLY)


def positions_task(texts: Sequence[str]) -> Task:
    """The first words of texts, between white space, labelled with their place from 0; raises MalformedData."""
    written, labels = [], []
    for text in texts:
        spans = [match.span() for match in re.finditer(r"\S+", text)][:POSITIONS]
        if len(spans) > 1:
            written.append(Written(text, tuple((span,) for span in spans)))
            labels.append(tuple(range(len(spans))))
    name = f"places of words in {len(written)} texts"
    if not written:
        raise MalformedData(name, "no text has two words")
    chosen = tuple(each.text for each in written)
    return Task(name, SPANS, chosen, tuple(labels), metric=find_metric("accuracy", SPANS), written=tuple(written))


def _texts(given: Examined) -> list[str]:
    if given.conllu is not None:
        return [sentence.text for sentence in read_conllu(given.conllu)]
    texts = _plain(given.texts)
    if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
        raise InvalidArgument(
            "texts", type(given.texts).__name__, "a list of texts, such as ['A sentence.'], or a task"
        )
    return list(texts)


def _plain(texts: Any) -> Any:
    """Of a task its texts, words of one with a space between."""
    if not isinstance(texts, Task):
        return texts
    return [" ".join(map(str, text)) if texts.kind == TOKENS else text for text in texts.texts]


def _by_thirds(given: Examined, report: ProbeReport, wanted: str) -> ClaimFinding:
    """The best layer of the wanted third against that of each other, chosen by the held-out part."""
    last = report.layers[-1]
    _check_layers(given.model, last)
    clusters = report.probing.parts[TESTED].texts
    best: dict[str, int] = {}
    for layer in report.layers:
        group = third(layer, last)
        if group not in best or report.at(layer).held_out_score > report.at(best[group]).held_out_score:
            best[group] = layer
    ours = report.right(best[wanted]).astype(np.float64)
    comparisons = []
    for group in (EARLY, MIDDLE, FINAL):
        if group != wanted:
            theirs = report.right(best[group]).astype(np.float64)
            found = paired_difference(ours, theirs, clusters, given.confidence)
            what = f"accuracy of layer {best[wanted]} ({wanted}) less that of layer {best[group]} ({group})"
            comparisons.append(Comparison(what, found.difference, found.interval))
    outcome, reason, decisive = decide(comparisons)
    if not any(report.beats_majority(layer) for layer in best.values()):
        outcome = UNDECIDED
        reason = f"no probe is surely better than the most frequent label, {report.majority_baseline:.4f}"
    scores = "  ".join(f"{layer}: {report.at(layer).score:.4f}" for layer in report.layers)
    return ClaimFinding(
        claim=given.claim,
        model=given.model.name,
        data=report.data,
        outcome=outcome,
        reason=reason,
        value=decisive.difference,
        interval=decisive.interval,
        required="surely above 0",
        judged=decisive.what,
        examples=len(report),
        confidence=given.confidence,
        evidence=report,
        rows={
            "compared": "; ".join(map(str, comparisons)),
            "by layer": f"{scores} (most frequent label: {report.majority_baseline:.4f})",
            "trained on": f"{report.trained_on} items of {report.training}; judged: {len(report)}",
        },
    )


def final_changes(given: Examined) -> ClaimFinding:
    """See the catalogue."""
    texts = given.task if given.texts is None else given.texts
    name, changes = attention_changes(given.model, given.base, _plain(texts), given.batching)
    name = texts.name if isinstance(texts, Task) else name
    count, last = changes.shape
    _check_layers(given.model, last)
    if count < 2:
        raise UndefinedScore("an interval over texts", f"there is {count} text: give more")
    if float(np.abs(changes).max()) < _ROUNDING:
        raise NothingToJudge(
            f"{given.model.name} and {given.base.name} attend alike in all layers",
            "Give as base the model that this one was fine-tuned from.",
        )
    groups = np.array([third(layer, last) for layer in range(1, last + 1)])
    means = {group: changes[:, groups == group].mean(axis=1) for group in (EARLY, MIDDLE, FINAL)}
    comparisons = []
    for group in (MIDDLE, EARLY):
        moved = means[FINAL] - means[group]
        half = float(stats.t.ppf(0.5 + given.confidence / 2.0, count - 1) * moved.std(ddof=1) / np.sqrt(count))
        mean = float(moved.mean())
        what = f"mean change of the final layers less that of the {group} ones"
        comparisons.append(Comparison(what, mean, (mean - half, mean + half)))
    outcome, reason, decisive = decide(comparisons)
    by_layer = "  ".join(f"{layer + 1}: {value:.4f}" for layer, value in enumerate(changes.mean(axis=0)))
    return ClaimFinding(
        claim=given.claim,
        model=f"{given.model.name}, fine-tuned from {given.base.name}",
        data=name,
        outcome=outcome,
        reason=reason,
        value=decisive.difference,
        interval=decisive.interval,
        required="surely above 0",
        judged=decisive.what,
        examples=count,
        confidence=given.confidence,
        evidence=changes,
        rows={"compared": "; ".join(map(str, comparisons)), "by layer": f"{by_layer} (1 − cosine, {count} texts)"},
    )


def attention_changes(
    model: ModelUnderTest, base: ModelUnderTest, texts: TextsLike, batching: Batching | None = None
) -> tuple[str, Array]:
    """The texts' name, and (texts, layers): 1 − the cosine of both models' maps, mean over a layer's heads.

    Of encoder-decoder models the encoder's layers. Raises InvalidArgument for models that differ in heads or tokens.
    """
    for each in (model, base):
        check_has_heads(each)
    if model.heads != base.heads:
        found = f"{base.name} ({base.heads.describe()})"
        raise InvalidArgument("base", found, f"a model with the heads of {model.name}: {model.heads.describe()}")
    ours, theirs = read_texts(model, texts), read_texts(base, texts)
    for index in range(len(ours)):
        if ours.ids(index) != theirs.ids(index):
            expected = f"a model that reads the same tokens as {model.name}: text {index} of {ours.name} differs"
            raise InvalidArgument("base", base.name, expected)
    sites = [index for index, site in enumerate(model.sites) if site.stack in (None, "encoder")]
    changes = np.zeros((len(ours), len(sites)))
    with tracked(f"{ours.name}, change of attention", len(ours)) as show:
        for start in range(0, len(ours), _TEXTS_AT_ONCE):
            part: Any = list(ours.texts[start : start + _TEXTS_AT_ONCE])
            maps = [AttentionMaps(each, part, batching=batching) for each in (model, base)]
            for column, site in enumerate(sites):
                name = (model.sites[site].layer, model.sites[site].stack)
                for row, pair in enumerate(zip(maps[0][name], maps[1][name], strict=True)):
                    changes[start + row, column] = np.mean(list(_distances(*pair)))
            show(start + len(part))
    return ours.name, changes


def _distances(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> Iterator[float]:
    """For each head 1 − the cosine between two maps."""
    for one, other in zip(ours.astype(np.float64), theirs.astype(np.float64), strict=True):
        yield 1.0 - float((one * other).sum() / np.sqrt((one * one).sum() * (other * other).sum()))


def _check_layers(model: ModelUnderTest, last: int) -> None:
    if last < 3:
        expected = "a model with three layers or more: of fewer none is early, middle and final"
        raise InvalidArgument("model", f"{model.name} ({last} layers)", expected)


__all__ = ["attention_changes", "early_positions", "final_changes", "middle_syntax", "positions_task"]
