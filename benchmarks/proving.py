"""Finding the heads of a model and proving that masks act, in plain forward passes of one 512-token batch.

Both are timed in turn, several rounds in one process, and the ratio of each round is taken. The model is in memory;
what is measured is what `load_model` adds to loading it.

    python benchmarks/proving.py [--assets ../shared/assets] [--rounds 15] [--threads 2]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from pytest_bertology import load_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--assets", type=Path, default=Path(__file__).parents[2] / "shared" / "assets")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name, shape in (("minilm-sst2", (1, 512)), ("minilm-sst2", (4, 128)), ("stories260K-hf", (1, 512))):
        model = load_model(arguments.assets / "checkpoints" / name, device="cpu").model
        ids = torch.randint(5, 500, shape, generator=torch.Generator().manual_seed(0))

        def forward(model=model, ids=ids) -> None:
            with torch.no_grad():
                model(input_ids=ids)

        pairs = [
            (_seconds(lambda model=model: load_model(model)), _seconds(forward)) for _ in range(arguments.rounds + 2)
        ]
        proving, plain = zip(*pairs[2:], strict=True)
        ratios = [a / b for a, b in zip(proving, plain, strict=True)]
        print(
            f"{name}, batch {shape[0]} x {shape[1]}: discovery and proof {1e3 * statistics.median(proving):.0f} ms, a "
            f"plain forward {1e3 * statistics.median(plain):.0f} ms, ratio {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}), {arguments.rounds} rounds, {arguments.threads} threads"
        )


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
