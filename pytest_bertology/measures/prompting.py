"""Probing a causal language model by a prompt: which label's word is likeliest to follow. Nothing is trained."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.results import noise
from pytest_bertology.errors import (
    BertologyWarning,
    EmptyTask,
    InvalidArgument,
    LabelMismatch,
    SingleClass,
    WrongTaskKind,
)
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.arguments import check_model_and_task
from pytest_bertology.measures.control_task import control_labels
from pytest_bertology.measures.origins import remakeable
from pytest_bertology.measures.prompt_reading import ALONE
from pytest_bertology.measures.prompt_report import PromptReport
from pytest_bertology.measures.prompt_scores import word_scores
from pytest_bertology.measures.prompt_texts import (
    Asked,
    check_prompt,
    fitting,
    label_words_of,
    prompts_of,
    read_prompts,
    without_content,
)
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.items import Items, items_of
from pytest_bertology.tasks.task import Task

Array = npt.NDArray[Any]

DRAWS = 100
"""Control labellings."""
CALIBRATIONS = (None, "content-free")


@remakeable
def prompt_probe(
    model: ModelUnderTest,
    task: Task,
    prompt: str,
    label_words: Mapping[Any, str | Sequence[str]],
    *,
    calibrate: str | None = None,
    per_token: bool = False,
    control: bool = True,
    seed: int = 0,
    confidence: float = 0.95,
    batching: Batching | None = None,
) -> PromptReport:
    """Ask a causal language model by a prompt: the label whose word is likeliest to follow is its answer.

    METHODS 20, after Li, Cotterell & Sachan 2022, "Probing via prompting": the probe is a prompt on the frozen model.
    Theirs has a prefix that is trained; here nothing is: the score is what this prompt gets out, a lower bound of what
    the model knows. `prompt` is a template: {text} of a classified text, {first} and {second} of a pair of texts;
    {text} and {item} of a word or span in its text; {text}, {first} and {second} of two spans. `label_words` has a
    word, or several, for each label; prompt and word are joined by the white space that either has there, else by a
    space. Under masks in force it is the masked model that is asked.

    A word's score is the log probability, in nats, of all its tokens after the prompt; a label's that of any of its
    words (probabilities added). With `per_token` a word's is the mean over its tokens, which spares long words. With
    calibrate="content-free" the log of the probability that a label has among all labels after a prompt without
    content is subtracted: that of the mean over "N/A", "[MASK]" and "" in place of all fields (Zhao et al. 2021).
    Predicted is the greatest, the first of equals.

    The `control` scores the same predictions against labels drawn at random for each type, in proportion to the true
    ones, 100 times. As nothing is trained nothing can be memorised, and this is not what a probe's control task
    (Hewitt & Liang 2019) is for probes: it says what answers that know nothing, but are as lopsided as these, score.
    Selectivity is the score less the mean of those. (Words dealt to other labels would be no control: with two labels
    the score is one minus the accuracy, and over all deals it is 1 / K for any answers whatever.)

    Prompts longer than the model can read are left out, with a warning, and counted. Labels of `label_words` that no
    item has may be answered all the same; a warning says how often. What prompts and words share is read once, where
    the model is seen to give the same for it. Raises WrongTaskKind for other
    models than causal ones; InvalidArgument; LabelMismatch where a label has no word; MalformedData; EmptyTask;
    SingleClass; NonFinite.
    """
    check_model_and_task(model, task)
    _check(calibrate, per_token, control, seed, confidence)
    if model.kind != "causal-lm":
        needs = "a causal language model to go on from a prompt: probe(model, task) reads any model's hidden states"
        raise WrongTaskKind(model.name, model.kind, task.name, needs)
    items, words = items_of(task), label_words_of(label_words)
    check_prompt(prompt, items)
    _check_labels(task.name, model.name, items, words)
    flat = [word for own in words.values() for word in own]
    asked = read_prompts(model, task.name, prompts_of(prompt, items), flat)
    kept = _kept(model, task, items, asked)
    _check_beginnings(asked[kept[0]], words, calibrated=calibrate is not None or per_token)
    free = read_prompts(model, task.name, without_content(prompt, items), flat) if calibrate else []
    scores = _Scores(model, task.name, words, per_token, batching or Batching())
    by_label, prior = scores.decided([asked[index] for index in kept], free)
    numbers = {label: number for number, label in enumerate(words)}
    labels = np.array([numbers[items.labels[index]] for index in kept], dtype=np.int64)
    if len(set(labels.tolist())) < 2:
        raise SingleClass(task.name, items.labels[kept[0]], len(kept))
    types = [items.types[index] for index in kept]
    counts = np.bincount(labels, minlength=len(words))
    report = PromptReport(
        model=model.name,
        data=task.name,
        level=items.level,
        metric=task.metric,
        prompt=prompt,
        label_words=words,
        calibration=calibrate,
        per_token=per_token,
        confidence=confidence,
        seed=seed,
        log_probabilities=by_label,
        labels=labels,
        left_out=len(items) - len(kept),
        _prior=prior,
        _texts=items.text_of[kept],
        _control=tuple(control_labels(types, counts, DRAWS * seed + draw) for draw in range(DRAWS)) if control else (),
    )
    _warn_of_unseen(report)
    return report


def _check_labels(task: str, model: str, items: Items, words: Mapping[Any, Sequence[str]]) -> None:
    """Raise LabelMismatch where a label of the data has no words, and say which keys are meant."""
    labels = sorted(set(items.labels), key=lambda label: (isinstance(label, str), label))
    missing = [label for label in labels if label not in words]
    if not missing:
        return
    keys = " and ".join(filter(None, (", ".join(map(repr, labels[:-1])), repr(labels[-1]))))
    alike = {str(label) for label in missing} & set(map(str, words))
    kind = f" of the type {type(missing[0]).__name__}" if alike else ""
    advice = f"label_words needs a word for every label: use the keys {keys}{kind}."
    raise LabelMismatch(task, labels, f"label_words for {model}", list(words), advice)


def _warn_of_unseen(report: PromptReport) -> None:
    """A sample may lack a label; but what is never right took answers, and may be a slip."""
    for number, label in enumerate(report.classes):
        if not (report.labels == number).any():
            took = f"it took {int((report.predictions == number).sum())} of {len(report)} answers, which count as wrong"
            said = f"label_words has {label!r}, a label that no judged item of {report.data} has: {took}"
            warnings.warn(said, BertologyWarning, stacklevel=3)


def _kept(model: ModelUnderTest, task: Task, items: Items, asked: Sequence[Asked]) -> list[int]:
    kept = fitting(model, asked)
    if not kept:
        raise EmptyTask(task.name, f"All of its {len(items)} prompts are longer than {model.name} can read.")
    if len(kept) < len(items):
        left = f"{len(items) - len(kept)} of {len(items)} prompts of {task.name}"
        warnings.warn(f"{left} are longer than {model.name} can read and were left out", BertologyWarning, stacklevel=3)
    return kept


def _check_beginnings(asked: Asked, words: Mapping[Any, Sequence[str]], *, calibrated: bool) -> None:
    """Raise InvalidArgument for a word that another label's begins with: what goes on is never likelier."""
    flat = [(label, word) for label, own in words.items() for word in own]
    for (label, word), ids in zip(flat, asked.words, strict=True):
        for (other, longer), more in zip(flat, asked.words, strict=True):
            if label != other and more[: len(ids)] == ids and (not calibrated or more == ids):
                is_same = "the same tokens as" if more == ids else "the first tokens of"
                expected = f"another word: its tokens are {is_same} {longer!r}, which could never be the likelier"
                raise InvalidArgument(f"label_words[{label!r}]", word, expected)


@dataclass(frozen=True)
class _Scores:
    """How labels are scored."""

    model: ModelUnderTest
    name: str
    words: Mapping[Any, Sequence[str]]
    per_token: bool
    batching: Batching

    def decided(self, asked: Sequence[Asked], free: Sequence[Asked]) -> tuple[Array, Array]:
        """(items, labels) scores, and (labels,) what is to be subtracted of them.

        Where two labels are so near that batching could turn them, prompts are read alone.
        """
        prior = np.zeros(len(self.words))
        if free:
            each = self._by_label(free, ALONE)
            each -= logsumexp(each, axis=1, keepdims=True)
            prior = logsumexp(each, axis=0) - np.log(len(free))
        found = self._by_label(asked, self.batching)
        best = np.sort(found - prior, axis=1)
        near = np.flatnonzero(best[:, -1] - best[:, -2] < noise(self.model.dtype))
        if len(near) and self.batching != ALONE:
            found[near] = self._by_label([asked[index] for index in near.tolist()], ALONE)
        return found, prior

    def _by_label(self, asked: Sequence[Asked], batching: Batching) -> Array:
        scores = word_scores(self.model, self.name, asked, batching)
        if self.per_token:
            scores = scores / np.array([[len(ids) for ids in each.words] for each in asked])
        ends = np.cumsum([len(own) for own in self.words.values()])
        return np.stack([logsumexp(each, axis=1) for each in np.split(scores, ends[:-1], axis=1)], axis=1)


def _check(calibrate: object, per_token: object, control: object, seed: object, confidence: object) -> None:
    if calibrate not in CALIBRATIONS:
        raise InvalidArgument("calibrate", calibrate, "'content-free', or None")
    for name, value in (("per_token", per_token), ("control", control)):
        if not isinstance(value, bool):
            raise InvalidArgument(name, value, "True or False")
    if not is_whole(seed) or seed < 0:  # type: ignore[operator]
        raise InvalidArgument("seed", seed, "a whole number from 0")
    numeric = isinstance(confidence, int | float) and not isinstance(confidence, bool)
    if not numeric or not 0.0 < confidence < 1.0:  # type: ignore[operator]
        raise InvalidArgument("confidence", confidence, "a number between 0 and 1, such as 0.95")
