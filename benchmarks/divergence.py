"""Divergence of every two of 72 heads on SST-2: time and memory, beside plain evaluation and a naive loop of scipy's.

The naive loop keeps the maps of eager attention of one sentence and calls scipy.spatial.distance.jensenshannon for
every pair of heads, all rows at once; it is run on few sentences and told per sentence. Both must agree.

    python benchmarks/divergence.py [--assets ../shared/assets] [--sentences 500] [--naive 4] [--threads 2]
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from scipy.spatial.distance import jensenshannon

from pytest_bertology import ModelUnderTest, ResultStore, evaluate, head_divergence, load_model, load_task, using_store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--assets", type=Path, default=Path(__file__).parents[2] / "shared" / "assets")
    parser.add_argument("--sentences", type=int, default=500)
    parser.add_argument("--naive", type=int, default=4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = load_model(arguments.assets / "checkpoints" / "minilm-sst2", device="cpu")
    task = load_task(arguments.assets / "data" / "sst2" / "dev.tsv").subset(range(arguments.sentences))
    with using_store(ResultStore()):
        evaluate(model, task.subset(range(64)))
        start = time.perf_counter()
        evaluate(model, task)
        plain, before = time.perf_counter() - start, peak()
        start = time.perf_counter()
        found = head_divergence(model, task)
        ours, after = time.perf_counter() - start, peak()
    few = task.subset(range(arguments.naive))
    start = time.perf_counter()
    expected = naive(model, few.texts)
    slow = (time.perf_counter() - start) / arguments.naive
    difference = float(np.abs(head_divergence(model, few).sum - expected).max() / expected.max())
    count = arguments.sentences
    pairs = len(model.heads) * (len(model.heads) - 1) // 2
    print(f"{count} sentences, {found.tokens} tokens, {pairs} pairs of heads, {arguments.threads} threads")
    print(f"plain evaluation  {plain:8.2f} s")
    print(f"head_divergence   {ours:8.2f} s, peak memory +{after - before:.0f} MiB")
    print(f"naive scipy       {slow * count:8.0f} s (from {arguments.naive} sentences)")
    print(f"greatest difference: {difference:.1e} of the greatest sum")
    assert difference < 1e-5


def naive(model: ModelUnderTest, texts: tuple[str, ...]) -> np.ndarray:
    model.model.set_attn_implementation("eager")
    total = np.zeros((len(model.heads),) * 2)
    for text in texts:
        with torch.no_grad():
            result = model.model(**model.tokenizer(text, return_tensors="pt"), output_attentions=True)
        maps = np.concatenate([layer[0].double().numpy() for layer in result.attentions])
        for a, b in itertools.combinations(range(len(maps)), 2):
            total[a, b] = total[b, a] = total[a, b] + (jensenshannon(maps[a], maps[b], axis=1) ** 2).sum()
    model.model.set_attn_implementation("sdpa")
    return total


def peak() -> float:
    """MiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
