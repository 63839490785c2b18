"""Attention statistics of 2,000 sentences, against plain passes over the same batches, and against keeping every map.

"plain" runs the model under SDPA over the same sentences in the same batches, nothing else; "eager, all maps" runs
eager attention with `output_attentions`, keeps what it returns, and computes the entropy at the end, as scripts do.
Time: CPU time, interleaved rounds in one process; the ratio is taken in each round. Memory: the growth of the
process's peak beyond the loaded model, each way in a process of its own.

    python benchmarks/attention.py [--assets ../shared/assets] [--rounds 3] [--threads 1] [--sentences 2000]

Exits with 1 where statistics take twice a plain pass's time or memory, or more.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from pytest_bertology import Batching, ResultStore, attention_statistics, load_model, using_store
from pytest_bertology.engine.batching import batches
from pytest_bertology.engine.texts import read_texts
from pytest_bertology.models import ModelUnderTest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--assets", type=Path, default=Path(__file__).parents[2] / "shared" / "assets")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sentences", type=int, default=2000)
    parser.add_argument("--memory-of", choices=["plain", "statistics", "maps"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = load_model(arguments.assets / "checkpoints" / "minilm-sst2")
    texts = sentences(arguments.assets)[: arguments.sentences]
    ways = {
        "plain": lambda: plain(model, texts),
        "statistics": lambda: statistics_of(model, texts),
        "maps": lambda: all_maps(arguments.assets, texts),
    }
    if arguments.memory_of:
        print(growth(model, texts, ways[arguments.memory_of]))
        return 0
    print(f"{len(texts)} sentences of UD English-EWT dev, minilm-sst2, {arguments.threads} thread(s)")
    ratio = times(ways, arguments.rounds)
    share = memory(arguments)
    return 0 if ratio < 2.0 and share < 2.0 else 1


def sentences(assets: Path) -> list[str]:
    file = assets / "data" / "ud_ewt" / "en_ewt-ud-dev.conllu"
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("# text = ") for line in lines if line.startswith("# text = ")]


def plain(model: ModelUnderTest, texts: list[str]) -> None:
    read = read_texts(model, texts)
    with torch.inference_mode(), model.frozen():
        for batch in batches(model, read.encoded, Batching()):
            model.model(**batch.inputs)


def statistics_of(model: ModelUnderTest, texts: list[str]) -> None:
    with using_store(ResultStore()):
        attention_statistics(model, texts)


def all_maps(assets: Path, texts: list[str]) -> None:
    model = load_model(assets / "checkpoints" / "minilm-sst2")
    model.model.set_attn_implementation("eager")
    read = read_texts(model, texts)
    kept = []
    with torch.inference_mode(), model.frozen():
        for batch in batches(model, read.encoded, Batching()):
            result = model.model(**batch.inputs, output_attentions=True)
            kept.append((torch.stack(result.attentions), batch.inputs["attention_mask"]))
        for maps, real in kept:
            torch.special.entr(maps).sum(-1)[:, real.bool().unsqueeze(1).expand(-1, maps.shape[2], -1)].mean()


def times(ways: dict[str, Callable[[], None]], rounds: int) -> float:
    """Seconds of CPU; returns the median ratio of statistics to plain passes."""
    seconds: dict[str, list[float]] = {name: [] for name in ("plain", "statistics")}
    for _ in range(rounds):
        for name, found in seconds.items():
            start = time.process_time()
            ways[name]()
            found.append(time.process_time() - start)
    ratios = [a / b for a, b in zip(seconds["statistics"], seconds["plain"], strict=True)]
    for name, found in seconds.items():
        print(f"  {name:<12} {statistics.median(found):7.2f} s")
    print(
        f"  statistics take {statistics.median(ratios):.2f} times a plain pass ({min(ratios):.2f} to {max(ratios):.2f})"
    )
    return statistics.median(ratios)


def growth(model: ModelUnderTest, texts: list[str], way: Callable[[], None]) -> tuple[int, int]:
    """KiB of this process before, and at its peak while it runs (Linux: the peak is reset after loading)."""
    plain(model, texts[:8])  # what torch loads on first use
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    way()
    return before, _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def memory(arguments: argparse.Namespace) -> float:
    """Peaks in MiB; returns the ratio of the growth of statistics to that of plain passes."""
    grown = {}
    for name in ("plain", "statistics", "maps"):
        command = [sys.executable, __file__, "--memory-of", name, "--assets", str(arguments.assets)]
        command += ["--threads", str(arguments.threads), "--sentences", str(arguments.sentences)]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        before, after = (int(part) / 1024 for part in found.strip("()\n ").split(","))
        grown[name] = max(after - before, 1.0)
        print(f"  {name:<12} peak {after:7.0f} MiB, {after - before:6.0f} MiB of it grown while it ran")
    share, kept = (grown[name] / grown["plain"] for name in ("statistics", "maps"))
    print(f"  statistics grow {share:.2f} times what plain passes grow; all maps {kept:.1f} times")
    return share


if __name__ == "__main__":
    sys.exit(main())
