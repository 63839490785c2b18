"""What a student and its teacher predict: how far the one's probabilities are from the other's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.encoding import IGNORED, encode
from pytest_bertology.engine.memory import within_memory
from pytest_bertology.engine.texts import TextsLike
from pytest_bertology.errors import CannotMeasure, InvalidArgument, NonFinite
from pytest_bertology.measures.pairing import ModelPair, PairedBatch, check_models, read_pair
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.metrics import LANGUAGE, TOKENS
from pytest_bertology.tasks.task import Task

_WHAT = "logit distance"
_KINDS = ("sequence-classification", "token-classification", "causal-lm", "masked-lm")


@dataclass(frozen=True)
class LogitDistance:
    """How far a student's predictions are from its teacher's, in nats, mean over items."""

    student: str
    teacher: str
    task: str
    """The texts' name."""
    items: int
    unit: str
    """What an item is: "examples" or "tokens"."""
    temperature: float
    cross_entropy: float
    """−Σ softmax(teacher / t) · log softmax(student / t); at least the teacher's own entropy."""
    kl: float
    """The same less that entropy: 0 where both give the same probabilities."""
    agreement: float
    """Share of items for which both find the same class likeliest."""

    def __repr__(self) -> str:
        return f"LogitDistance({self.student} and {self.teacher}: KL {self.kl:.4g}, {self.agreement:.1%} agree)"

    def table(self) -> str:
        """The numbers, a line each."""
        return "\n".join(
            [
                f"predictions of {self.student} and of its teacher {self.teacher} on {self.task}: {self.items} "
                f"{self.unit}, temperature {self.temperature:g}",
                f"soft cross entropy  {self.cross_entropy:>8.4f}",
                f"KL divergence       {self.kl:>8.4f}",
                f"agreement           {self.agreement:>8.4f}",
            ]
        )


def logit_distance(
    student: ModelUnderTest,
    teacher: ModelUnderTest,
    texts: TextsLike,
    temperature: float = 1.0,
    *,
    batching: Batching | None = None,
) -> LogitDistance:
    """Soft cross entropy of a student's predictions under its teacher's (TinyBERT, eq. 10), KL, and agreement.

    Both are divided by `temperature` and made probabilities; the mean is over examples for classifiers of texts, over
    tokens for classifiers of tokens and language models: of a task those that are judged (a word's first, masked ones,
    all that have a next), of plain texts all but padding. Labels of a task are not looked at. Both models run as they
    are, under the masks in force. Of classifiers that name the same labels in another order, names are matched.

    Raises InvalidArgument, naming the text, where both do not read the same tokens, or predict other things;
    CannotMeasure for models without classes; NonFinite, naming the text; LabelMismatch or WrongTaskKind for a task
    that is not the models'.
    """
    check_models(student, teacher)
    numeric = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    if not numeric or not 0.0 < temperature < float("inf"):
        raise InvalidArgument("temperature", temperature, "a number above 0")
    order = _order(student, teacher)
    pair = _read(student, teacher, texts)
    totals, items = within_memory(_WHAT, student, lambda: _totals(pair, order, float(temperature), batching))
    cross, kl, agreed = (totals / items).tolist()
    unit = "examples" if student.kind == "sequence-classification" else "tokens"
    return LogitDistance(
        student.name, teacher.name, pair.name, items, unit, float(temperature), cross, max(kl, 0.0), agreed
    )


def _totals(
    pair: ModelPair, order: list[int] | None, temperature: float, batching: Batching | None
) -> tuple[Tensor, int]:
    """What `_sums` gives of all items, and how many they are."""
    totals = torch.zeros(3, dtype=torch.float64)
    items = done = 0
    with pair.running(_WHAT) as show:
        for batch in pair.batches(batching):
            ours = _logits(pair.student, batch.student.inputs, batch, pair)
            theirs = _logits(pair.teacher, batch.teacher.inputs, batch, pair)
            if ours.shape[1] != theirs.shape[1]:
                wanted = f"a model with the student's {ours.shape[1]} outputs: it has {theirs.shape[1]}"
                raise InvalidArgument("teacher", pair.teacher.name, wanted)
            if order is not None:
                ours = ours[:, order]
            totals += _sums(ours.to(theirs.device), theirs, temperature)
            items += len(theirs)
            done += len(batch.student.positions)
            show(done)
    return totals, items


def _sums(ours: Tensor, theirs: Tensor, temperature: float) -> Tensor:
    """(3,) cross entropies, divergences and agreements of (items, classes) logits."""
    log_student, log_teacher = ((each / temperature).log_softmax(dim=-1) for each in (ours, theirs))
    likely = log_teacher.exp()
    agreed = ours.argmax(dim=-1) == theirs.argmax(dim=-1)
    found = (-(likely * log_student).sum(dim=-1), (likely * (log_teacher - log_student)).sum(dim=-1), agreed)
    return torch.stack([each.cpu().double().sum() for each in found])


def _order(student: ModelUnderTest, teacher: ModelUnderTest) -> list[int] | None:
    """Where each of the teacher's classes is among the student's, where the same names stand in another order."""
    for model in (student, teacher):
        if model.kind not in _KINDS:
            raise CannotMeasure(
                _WHAT, type(model.model).__name__, f"as a model of kind {model.kind!r} it has no classes"
            )
    if student.kind != teacher.kind:
        raise InvalidArgument("teacher", f"{teacher.name}, {teacher.kind}", f"a model of kind {student.kind!r}")
    if student.kind not in _KINDS[:2]:
        return None
    for model in (student, teacher):
        if model.model.config.num_labels == 1:
            raise CannotMeasure(_WHAT, type(model.model).__name__, "it has a single output, a number and no class")
    ours, theirs = (_names(model) for model in (student, teacher))
    if ours == theirs or len(ours) != len(theirs) or _unnamed(ours) or _unnamed(theirs):
        return None
    if set(ours) != set(theirs):
        raise InvalidArgument("teacher", teacher.name, f"a model with the student's labels {ours}: it has {theirs}")
    return [ours.index(name) for name in theirs]


def _names(model: ModelUnderTest) -> list[str]:
    names: dict[int, Any] = model.model.config.id2label
    return [str(names[index]) for index in sorted(names)]


def _unnamed(names: list[str]) -> bool:
    return all(name == f"LABEL_{index}" for index, name in enumerate(names))


def _read(student: ModelUnderTest, teacher: ModelUnderTest, texts: TextsLike) -> ModelPair:
    """The texts, or the task with the tokens that are judged in it."""
    judged = {"token-classification": TOKENS, "causal-lm": LANGUAGE, "masked-lm": LANGUAGE}.get(student.kind)
    if isinstance(texts, Task) and texts.kind == judged:
        ours, theirs = encode(student, texts), encode(teacher, texts)
        return ModelPair(student, teacher, texts.name, texts.texts, ours, theirs)
    pair = read_pair(student, teacher, texts)[0]
    ours, theirs = (replace(each, objective=student.kind) for each in (pair.ours, pair.theirs))  # logits fill batches
    return replace(pair, ours=ours, theirs=theirs)


def _logits(model: ModelUnderTest, inputs: dict[str, Tensor], batch: PairedBatch, pair: ModelPair) -> Tensor:
    """(items, classes) logits of the items that are judged."""
    logits: Any = model.model(**inputs).logits
    owners = torch.arange(len(logits), device=logits.device)
    if logits.ndim == 3:
        labels = batch.student.labels
        judged = (labels != IGNORED if labels.ndim == 2 else batch.real).to(logits.device)
        owners = owners[:, None].expand(judged.shape)[judged]
        logits = logits[judged]
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    wrong = ~torch.isfinite(logits).all(dim=-1)
    if bool(wrong.any()):
        at = batch.student.positions[int(owners[wrong][0])]
        raise NonFinite(f"a logit of {model.name}", f"example {at} of {pair.name}")
    found: Tensor = logits
    return found
