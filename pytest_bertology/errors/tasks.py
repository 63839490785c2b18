"""Data, labels and scores; numbers that are not finite."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pytest_bertology.errors.base import BertologyError, some


class TaskNotFound(BertologyError, LookupError):
    """A source of data that is neither a file, a folder nor to be had from the hub."""

    def __init__(self, source: str, reason: str, what: str = "the task") -> None:
        self.source = source
        self.reason = reason
        self.what = what
        super().__init__(f"cannot load {what} {source!r}: {reason}")


class MalformedData(BertologyError, ValueError):
    """A data file that cannot be read as what its name says."""

    def __init__(self, source: str, problem: str) -> None:
        self.source = source
        self.problem = problem
        super().__init__(f"{source}: {problem}")


class MissingColumn(BertologyError, LookupError):
    """A column was asked for, or is needed, that the data does not have."""

    def __init__(self, source: str, wanted: str, columns: Sequence[str], option: str) -> None:
        self.source = source
        self.wanted = wanted
        self.columns = tuple(columns)
        super().__init__(
            f"{source} has no {wanted}; its columns are {', '.join(map(repr, columns))}. "
            f"Name the right one with {option}."
        )


class EmptyTask(BertologyError, ValueError):
    """A task without examples: every check on it would be green."""

    def __init__(self, source: str, advice: str = "Check the file, split and columns.") -> None:
        self.source = source
        super().__init__(f"{source} holds no examples: a check on it could never fail. {advice}")


class SingleClass(BertologyError, ValueError):
    """A task in which all labels are the same."""

    def __init__(self, source: str, label: object, count: int) -> None:
        self.source = source
        self.label = label
        self.count = count
        super().__init__(
            f"all {count} labels of {source} are {label!r}: a model that always says so would be perfect, "
            "and no mask could be seen to hurt. Give data with at least two labels."
        )


class LabelMismatch(BertologyError, ValueError):
    """The labels of the task and of the model are not the same."""

    def __init__(
        self,
        task: str,
        task_labels: Sequence[object],
        model: str,
        model_labels: Sequence[object],
        advice: str = "Rename the labels of the data, or set the model's config.id2label and config.label2id to the "
        "names the data uses.",
    ) -> None:
        self.task_labels = tuple(task_labels)
        self.model_labels = tuple(model_labels)
        super().__init__(
            f"the labels do not match: {task} has {some([repr(x) for x in task_labels])}, and {model} knows "
            f"{some([repr(x) for x in model_labels])}. {advice}"
        )


class LabelsNotLearned(BertologyError, ValueError):
    """No label of what a probe is judged on is one that it has learned: all of it would count as wrong."""

    def __init__(self, task: str, task_labels: Sequence[object], source: str, source_labels: Sequence[object]) -> None:
        self.task_labels = tuple(task_labels)
        self.source_labels = tuple(source_labels)
        super().__init__(
            f"no label of {task} can be learned from {source}: {task} has {some([repr(x) for x in task_labels])}, and "
            f"{source} has {some([repr(x) for x in source_labels])}. Give both the same labels, of the same type."
        )


class WrongTaskKind(BertologyError, ValueError):
    """A model that cannot do the task."""

    def __init__(self, model: str, kind: str, task: str, needs: str) -> None:
        self.kind = kind
        self.needs = needs
        super().__init__(f"{model} is loaded as {kind!r}, and {task} needs {needs}")


class UnknownMetric(BertologyError, ValueError):
    """A metric that is not known, or does not fit the kind of task."""

    def __init__(self, metric: str, kind: str, known: Iterable[str]) -> None:
        self.metric = metric
        self.known = tuple(known)
        super().__init__(f"the metric {metric!r} is not one for {kind}: choose from {', '.join(self.known)}")


class UndefinedScore(BertologyError, ArithmeticError):
    """A metric or correlation that has no value on this data."""

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        self.reason = reason
        super().__init__(f"{what} has no value here: {reason}")


class NonFinite(BertologyError, ArithmeticError):
    """NaN or infinity where a number was expected."""

    def __init__(self, what: str, where: str) -> None:
        self.what = what
        self.where = where
        super().__init__(
            f"{what} is not a finite number at {where}. Look for broken weights, or an overflow in half precision "
            "(load the model with dtype='float32')."
        )
