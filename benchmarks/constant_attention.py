"""How much attention attends on minilm-sst2: the score on SST-2 dev with ever more heads constant (PAPA), or masked.

Constant attention is estimated on sentences of the train part: some drawn at random, and the longest ones, since no
text can be run that is longer than all of them. Heads go in the order of gradient importance on dev, the least
important first, and in a random order; the same heads are then masked (zero) for comparison. Beside them, what top-k
attention costs (AxFormer).

    python benchmarks/constant_attention.py [--assets ../shared/assets] [--sentences 400] [--figure curve.png]
"""

from __future__ import annotations

import argparse
import os
import random
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from pytest_bertology import evaluate, load_model, load_task, pruning_curve, save_figure
from pytest_bertology.measures.constant_attention import constant_attention, constant_curve
from pytest_bertology.report.constant_figure import constant_curves

TOP = (16, 8, 4, 2, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--assets", type=Path, default=Path(__file__).parents[2] / "shared" / "assets")
    parser.add_argument("--sentences", type=int, default=400)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = load_model(arguments.assets / "checkpoints" / "minilm-sst2", device="cpu")
    dev = load_task(arguments.assets / "data" / "sst2" / "dev.tsv")
    texts = [
        text for text in load_task(arguments.assets / "data" / "sst2" / "train.tsv").texts if isinstance(text, str)
    ]
    longest = sorted(texts, key=len)[-arguments.sentences // 20 :]
    chosen = random.Random(0).sample(texts, arguments.sentences - len(longest)) + longest

    start = time.perf_counter()
    constants = constant_attention(model, chosen)
    print(f"{constants!r}: {time.perf_counter() - start:.1f} s")
    start = time.perf_counter()
    evaluate(model, dev)
    plain = time.perf_counter() - start

    curves = {}
    for by in ("gradient", "random"):
        start = time.perf_counter()
        curves[by] = constant_curve(model, dev, constants, by)
        took = time.perf_counter() - start
        masked = pruning_curve(model, dev, by)
        print(f"\n{by}: {took:.1f} s for 11 points; a plain evaluation takes {plain:.1f} s")
        print(f"{'fraction':>8}  {'constant':>8}  {'relative':>8}  {'masked':>8}  {'relative':>8}")
        for point, other in zip(curves[by].points, masked.points, strict=True):
            assert set(point.heads) == set(other.mask.masked)
            scores = [each.score for each in (point, other)]
            shares = [each.drop / curves[by].baseline for each in (point, other)]
            print(f"{point.fraction:>8.0%}", *(f"{x:>9.4f}  {y:>8.2%}" for x, y in zip(scores, shares, strict=True)))
        if by == "gradient" and arguments.figure:
            save_figure(constant_curves(curves[by], masked), arguments.figure)

    print("\nkeys  accuracy")
    for k in TOP:
        with model.with_top_k_attention(k):
            print(f"{k:>4}  {evaluate(model, dev).score:.4f}")


if __name__ == "__main__":
    main()
