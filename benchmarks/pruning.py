"""Forward passes of a cut BERT-base beside the whole one: what speed-up is there of what the removed FLOPs allow?

A model of BERT-base's shape (12 layers of 12 heads, 768 wide, random weights) loses half and nine tenths of its heads:
drawn from all with a seed, so that layers differ, and as equally per layer as can be. The whole model, the cut one and
the whole one with the same heads masked run in turn, in an order that changes from round to round, and the ratio of
each round's times is taken. FLOPs are those of all matrix products and of attention in the whole forward pass, as
`pytest_bertology.cost` counts them; what is done number by number (GELU, layer norms, residuals) is not among them, and
no head's removal shortens it.

    python benchmarks/pruning.py [--rounds 15] [--threads 2] [--where]
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import BertConfig, BertForSequenceClassification

from pytest_bertology import Head, cost, load_model
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.statistics import median_bounds

SHAPES = ((8, 128), (1, 128))
"""Sequences and tokens of each."""
SHARES = (0.5, 0.9)
REQUIRED = 0.95
KINDS = {"mm": "matrix products", "attention": "attention", "gelu": "GELU", "layer_norm": "layer norms"}
"""Kinds of work, by what the names of torch's operations hold."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--where", action="store_true", help="also print where the time goes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    whole = load_model(BertForSequenceClassification(BertConfig()).eval())
    cut = {
        f"{share:.0%} {how}": (heads, whole.pruned(heads))
        for share in SHARES
        for how, heads in (("drawn", drawn(whole, share)), ("equal", equal(whole, share)))
    }
    print(
        f"torch {torch.__version__}, {arguments.threads} threads, {arguments.rounds} rounds, medians (95 % intervals)\n"
    )
    for name, (heads, model) in cut.items():
        left = " ".join(map(str, model.heads.per_layer))
        print(f"{name}: {len(heads)} of {len(whole.heads)} heads cut, left in each layer {left}")
    print(
        "\n| heads cut | batch | FLOPs whole / cut | whole, ms | speed-up | share of what FLOPs allow "
        "| masked only: speed-up | cut against masked |"
    )
    print("|---|---|---:|---:|---|---|---:|---:|")
    for name, (heads, model) in cut.items():
        for shape in SHAPES:
            report(name, shape, whole, model, heads, arguments.rounds)
    if arguments.where:
        where(whole, cut)


def drawn(model: ModelUnderTest, share: float) -> list[Head]:
    """Heads drawn from all of the model's: layers are left with different numbers, or none."""
    return random.Random(0).sample(list(model.heads), round(share * len(model.heads)))


def equal(model: ModelUnderTest, share: float) -> list[Head]:
    """As many heads, each layer as many as any other, or one more."""
    count, draw = round(share * len(model.heads)), random.Random(0)
    layers = model.heads.layers
    shares = [count // len(layers) + (index < count % len(layers)) for index in range(len(layers))]
    return [
        Head(layer.layer, head) for layer, n in zip(layers, shares, strict=True) for head in draw.sample(range(12), n)
    ]


def report(
    name: str,
    shape: tuple[int, int],
    whole: ModelUnderTest,
    cut: ModelUnderTest,
    heads: list[Head],
    rounds: int,
) -> None:
    inputs = batch(shape)
    flops, fewer = cost(whole, inputs).flops, cost(cut, inputs).flops
    assert flops is not None
    assert fewer is not None
    allowed = flops / fewer

    def masked() -> float:
        with whole.masked(heads):
            return seconds(whole, inputs)

    times = in_turn(
        {"whole": lambda: seconds(whole, inputs), "cut": lambda: seconds(cut, inputs), "masked": masked}, rounds
    )
    speedups = [a / b for a, b in zip(times["whole"], times["cut"], strict=True)]
    speedup = statistics.median(speedups)
    lower, upper = median_bounds(speedups, 0.975)  # either side by 2.5 %
    mask_only = statistics.median(a / b for a, b in zip(times["whole"], times["masked"], strict=True))
    against = statistics.median(a / b for a, b in zip(times["masked"], times["cut"], strict=True))
    print(
        f"| {name} | {shape[0]} x {shape[1]} | {allowed:.3f} | {1e3 * statistics.median(times['whole']):.0f} "
        f"| {speedup:.3f} ({lower:.3f}-{upper:.3f}) "
        f"| {speedup / allowed:.1%} ({lower / allowed:.1%}-{upper / allowed:.1%})"
        f"{'' if speedup >= REQUIRED * allowed else ', short'} | {mask_only:.3f} | {against:.3f} |",
        flush=True,
    )


def batch(shape: tuple[int, int]) -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 30000, shape, generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def seconds(model: ModelUnderTest, inputs: Mapping[str, torch.Tensor]) -> float:
    with torch.inference_mode():
        start = time.perf_counter()
        model.model(**inputs)
        return time.perf_counter() - start


def in_turn(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Each way once a round, in an order of its own; two rounds before are not counted."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    draw = random.Random(0)
    for round in range(-2, rounds):
        for name in draw.sample(list(ways), len(ways)):
            taken = ways[name]()
            if round >= 0:
                times[name].append(taken)
    return times


def where(whole: ModelUnderTest, cut: Mapping[str, tuple[list[Head], ModelUnderTest]]) -> None:
    """Milliseconds of each kind of work in one forward pass, by torch's profiler; FLOPs are in the first two alone."""
    inputs = batch(SHAPES[0])
    columns = {"whole": spent(whole, inputs)} | {name: spent(model, inputs) for name, (_, model) in cut.items()}
    print(f"\n| ms of {SHAPES[0][0]} x {SHAPES[0][1]} | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}")
    for kind in (*KINDS.values(), "the rest"):
        print(f"| {kind} | {' | '.join(f'{times[kind]:.0f}' for times in columns.values())} |")


def spent(model: ModelUnderTest, inputs: Mapping[str, torch.Tensor], passes: int = 5) -> dict[str, float]:
    seconds(model, inputs)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(passes):
            seconds(model, inputs)
    found: dict[str, float] = defaultdict(float)
    for event in profiled.key_averages():
        kind = next((kind for part, kind in KINDS.items() if part in event.key), "the rest")
        found[kind] += event.self_cpu_time_total / passes / 1e3
    return found


if __name__ == "__main__":
    main()
