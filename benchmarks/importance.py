"""Gradient head importance of minilm-sst2 on SST-2 dev: in plain forward passes, and against the old script's loop.

"plain forward" is our own evaluation of the same texts (`evaluate`: sorted, batched, no padding to speak of), the
cheapest there is. "run_bertology loop" is `compute_heads_importance` of transformers' run_bertology.py with that
script's default settings: batch size 1, every text padded to 128 tokens, and a backward pass into one gate per head and
into all the weights, which it does not freeze, and whose gradients pile up. Two things are changed in its favour: the
attention entropy, which it computes on the way, is left out, and its gates act by hooks under SDPA, transformers 5
having no `head_mask`. One is mended, so that its numbers can be compared with ours: the gates' gradient is zeroed.
"…, not padded" is the same loop with each text at its own length, to show what the padding alone costs.

All ways are run in turn, several rounds in one process, and the ratio of each round's times is taken: the machine's
moods then fall on all alike. Tokenization is part of every way; our result store is empty each time.

    python benchmarks/importance.py [--assets ../shared/assets] [--examples 200] [--rounds 5] [--threads 1]

Exits with 1 where gradient importance takes more than 2.2 plain forwards, or the loop less than 2.4 times as long.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch

from pytest_bertology import ResultStore, evaluate, head_importance, load_model, load_task, using_store
from pytest_bertology.engine import encoding
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks import Task

FORWARD, OURS, SCRIPT = "plain forward", "pytest-bertology, gradient", "run_bertology loop"
FORWARDS, LOOPS = 2.2, 2.4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--assets", type=Path, default=Path(__file__).parents[2] / "shared" / "assets")
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = load_model(arguments.assets / "checkpoints" / "minilm-sst2", device="cpu")
    task = load_task(arguments.assets / "data" / "sst2" / "dev.tsv")
    task = task.subset(range(0, len(task), max(1, len(task) // arguments.examples))[: arguments.examples])
    ways: dict[str, Callable[[], np.ndarray]] = {
        FORWARD: lambda: ours(lambda: evaluate(model, task).losses),
        OURS: lambda: ours(lambda: head_importance(model, task).to_numpy()),
        "pytest-bertology, gradient_per_token": lambda: _by(model, task, "gradient_per_token"),
        "pytest-bertology, confidence": lambda: _by(model, task, "confidence"),
        SCRIPT: lambda: script(model, task, pad=True),
        f"{SCRIPT}, not padded": lambda: script(model, task, pad=False),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(arguments.rounds):
        found = {}
        for name, way in ways.items():
            start = time.perf_counter()
            found[name] = way()
            times[name].append(time.perf_counter() - start)
        assert np.allclose(found[OURS], found[SCRIPT], rtol=1e-2, atol=1e-5), "the loop has other numbers"
    return report(times, arguments, len(task))


def ours(work: Callable[[], np.ndarray]) -> np.ndarray:
    encoding._cache.clear()
    with using_store(ResultStore()):
        return work()


def _by(model: ModelUnderTest, task: Task, method: str) -> np.ndarray:
    return ours(lambda: head_importance(model, task, method).to_numpy())


def script(model: ModelUnderTest, task: Task, pad: bool) -> np.ndarray:
    """(layers, heads); per example and not per token, as ours is."""
    layers = [layer.attention.output.dense for layer in model.model.bert.encoder.layer]
    heads = model.model.config.num_attention_heads
    size = model.model.config.hidden_size // heads
    head_mask = torch.ones(len(layers), heads, requires_grad=True)
    head_importance = torch.zeros(len(layers), heads)

    def gate(layer: int) -> Callable[..., torch.Tensor]:
        return lambda module, args: args[0] * head_mask[layer].repeat_interleave(size)

    hooks = [module.register_forward_pre_hook(gate(layer)) for layer, module in enumerate(layers)]
    try:
        for text, label in zip(task.texts, task.label_ids(model.model.config.id2label, model.name), strict=True):
            padding = "max_length" if pad else False
            inputs = model.tokenizer(text, padding=padding, max_length=128, truncation=True, return_tensors="pt")
            model.model(**inputs, labels=torch.tensor([label])).loss.backward()
            head_importance += head_mask.grad.abs().detach()
            head_mask.grad = None
    finally:
        for hook in hooks:
            hook.remove()
        model.model.zero_grad()
    return (head_importance / len(task)).double().numpy()


def report(times: dict[str, list[float]], arguments: argparse.Namespace, examples: int) -> int:
    print(f"torch {torch.__version__}, {arguments.threads} threads, {examples} examples, {arguments.rounds} rounds\n")
    print("| way | seconds (median) | in plain forwards, median of rounds (min-max) | ratio to ours, the same |")
    print("|---|---:|---:|---:|")
    for name, seconds in times.items():
        columns = [_ratios(seconds, times[reference]) for reference in (FORWARD, OURS)]
        print(f"| {name} | {statistics.median(seconds):.2f} | {columns[0]} | {columns[1]} |")
    forwards = statistics.median(_quotients(times[OURS], times[FORWARD]))
    loops = statistics.median(_quotients(times[SCRIPT], times[OURS]))
    return int(forwards > FORWARDS or loops < LOOPS)


def _ratios(seconds: list[float], reference: list[float]) -> str:
    found = _quotients(seconds, reference)
    return f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})"


def _quotients(seconds: list[float], reference: list[float]) -> list[float]:
    return [own / other for own, other in zip(seconds, reference, strict=True)]


if __name__ == "__main__":
    sys.exit(main())
