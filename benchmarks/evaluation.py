"""Evaluation of minilm-sst2 on SST-2 dev, from texts to predictions: ours against what one would write instead.

Every way is run in turn, several rounds in one process, and the ratio of each round's times is taken: the machine's
moods then fall on all alike. Tokenization is part of every way; our result store is empty each time.

    python benchmarks/evaluation.py [--assets ../shared/assets] [--rounds 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from transformers import pipeline

from pytest_bertology import ResultStore, evaluate, load_model, load_task, using_store
from pytest_bertology.engine import encoding
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks import Task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--assets", type=Path, default=Path(__file__).parents[2] / "shared" / "assets")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = load_model(arguments.assets / "checkpoints" / "minilm-sst2", device="cpu")
    task = load_task(arguments.assets / "data" / "sst2" / "dev.tsv")
    ways: dict[str, Callable[[], Sequence[int]]] = {
        "pytest-bertology": lambda: ours(model, task),
        "padded to 128, batch 32": lambda: padded(model, task, 32, to=128),
        "dynamic padding, batch 32": lambda: padded(model, task, 32, to=None),
        **{f"pipeline, batch {size}": _pipeline(model, task, size) for size in (1, 8, 32, 64)},
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            predictions = way()
            times[name].append(time.perf_counter() - start)
            right = sum(int(p == label) for p, label in zip(predictions, task.labels or (), strict=True))
            assert right == 788, f"{name} has {right} right"
    report(times, arguments)


def ours(model: ModelUnderTest, task: Task) -> list[int]:
    encoding._cache.clear()
    with using_store(ResultStore()):
        return evaluate(model, task).predictions.tolist()


def padded(model: ModelUnderTest, task: Task, size: int, to: int | None) -> list[int]:
    """The loop that most evaluation scripts hold: batches in the data's order."""
    predictions: list[int] = []
    with torch.inference_mode():
        for start in range(0, len(task), size):
            texts = list(task.texts[start : start + size])
            padding = "longest" if to is None else "max_length"
            inputs = model.tokenizer(texts, padding=padding, max_length=to, truncation=True, return_tensors="pt")
            predictions += model.model(**inputs).logits.argmax(-1).tolist()
    return predictions


def _pipeline(model: ModelUnderTest, task: Task, size: int) -> Callable[[], Sequence[int]]:
    classify = pipeline("text-classification", model=model.model, tokenizer=model.tokenizer, batch_size=size)
    names = model.model.config.label2id
    return lambda: [names[result["label"]] for result in classify(list(task.texts))]


def report(times: dict[str, list[float]], arguments: argparse.Namespace) -> None:
    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.rounds} rounds, medians\n")
    print("| way | seconds | ratio to ours, median of rounds (min-max) |")
    print("|---|---:|---:|")
    reference = times["pytest-bertology"]
    for name, seconds in times.items():
        ratios = [theirs / own for theirs, own in zip(seconds, reference, strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        print(f"| {name} | {statistics.median(seconds):.2f} | {spread} |")


if __name__ == "__main__":
    main()
