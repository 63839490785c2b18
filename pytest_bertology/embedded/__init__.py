"""A real model and a data set that need no hub: what the plugin works on where it is given nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pytest_bertology.embedded.corpus import LABELS, sentences
from pytest_bertology.names import EMBEDDED

if TYPE_CHECKING:
    import torch

    from pytest_bertology.models import ModelUnderTest
    from pytest_bertology.tasks import Task

NAME = EMBEDDED
"""What the model and the data set are called."""


def load_embedded_model(device: str | torch.device = "cpu") -> ModelUnderTest:
    """The embedded classifier, with its heads found and its gates proven; see `encoder.load_encoder`.

    Raises EmbeddedModelMissing or EmbeddedModelAltered.
    """
    from pytest_bertology.embedded.encoder import load_encoder
    from pytest_bertology.models import ModelUnderTest

    model, tokenizer = load_encoder()
    placed = model.to(device)
    return ModelUnderTest(placed, tokenizer=tokenizer, name=NAME, kind="sequence-classification")


def load_embedded_task(split: Literal["train", "test"] = "test", metric: str | None = None) -> Task:
    """The embedded data set as a task: reviews to be told "negative" or "positive"."""
    from pytest_bertology.tasks import Task
    from pytest_bertology.tasks.metrics import find_metric

    texts, labels = sentences(split)
    return Task(
        name=f"{NAME}[{split}]",
        kind="sequence-classification",
        texts=texts,
        labels=tuple(LABELS[label] for label in labels),
        label_names=LABELS,
        metric=find_metric(metric, "sequence-classification"),
    )


__all__ = ["LABELS", "NAME", "load_embedded_model", "load_embedded_task", "sentences"]
