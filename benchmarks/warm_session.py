"""A gate's suite, run for the first time and again from its store: seconds of whole processes, and what they loaded.

python benchmarks/warm_session.py [--model FOLDER] [--task FILE] [--rounds 5]

The alternative in the same run has the results of the store, and no answers to whole calls (they are removed): the
model is loaded and proven, and every result is found.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ASSETS = Path(os.environ.get("BERTOLOGY_ASSETS", Path(__file__).parents[2] / "shared" / "assets"))
SUITE = """
import pytest
from pytest_bertology import (
    CheckFailed, ablate_heads, assert_heads_in_top, assert_metric_retained, attention_statistics, evaluate,
    pruning_curve,
)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.4])
def test_pruning(bertology_model, bertology_task, share):
    assert assert_metric_retained(bertology_model, bertology_task, prune=share, tolerance=0.05).drop < 0.05


def test_ranking(head_importance):
    assert_heads_in_top(head_importance, head_importance.top(3), k=12)


@pytest.mark.bertology(heads_masked=[(0, 1), (2, 3)])
def test_masked(bertology_model, bertology_task):
    assert evaluate(bertology_model, bertology_task).score > 0.85


def test_curve(bertology_model, bertology_task):
    assert pruning_curve(bertology_model, bertology_task).at(0.2).score > 0.85


def test_ablation(bertology_model, bertology_task):
    assert len(ablate_heads(bertology_model, bertology_task).score_change.top(3)) == 3


def test_without_most_heads(bertology_model, bertology_task):
    with pytest.raises(CheckFailed):
        assert_metric_retained(bertology_model, bertology_task, prune=0.9, tolerance=0.001)


def test_attention(bertology_model, bertology_task):
    assert attention_statistics(bertology_model, list(bertology_task.texts)).entropy.values.min() >= 0
"""
CONFTEST = """
import sys


def pytest_unconfigure(config):
    names = ("torch", "transformers", "datasets", "scipy", "sklearn", "numpy")
    print("loaded:", *[name for name in names if name in sys.modules])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=str(ASSETS / "checkpoints" / "minilm-sst2"))
    parser.add_argument("--task", default=str(ASSETS / "data" / "sst2" / "dev.tsv"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_gate.py").write_text(SUITE)
        (folder / "conftest.py").write_text(CONFTEST)
        print("suite | seconds | loaded")
        told("first run", [run(folder, options.model, options.task)])
        warm = [run(folder, options.model, options.task) for _ in range(options.rounds)]
        told("again, everything in the store", warm)
        found = []
        for _ in range(options.rounds):
            shutil.rmtree(folder / "store" / "answers")
            found.append(run(folder, options.model, options.task))
        told("results in the store, no answers", found)
        ratio = statistics.median(s for s, _ in found) / statistics.median(s for s, _ in warm)
        print(f"answers against results: {ratio:.1f} times as fast")


def run(folder: Path, model: str, task: str) -> tuple[float, str]:
    """Seconds of the whole process, and what it had loaded at its end."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--bertology-model={model}"]
    command += [f"--bertology-task={task}", "--bertology-store=store"]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    loaded = next(line for line in done.stdout.splitlines() if line.startswith("loaded:"))
    return seconds, loaded.removeprefix("loaded:").strip()


def told(what: str, runs: list[tuple[float, str]]) -> None:
    seconds = sorted(seconds for seconds, _ in runs)
    among = f" ({seconds[0]:.1f} to {seconds[-1]:.1f})" if len(seconds) > 1 else ""
    print(f"{what} | {statistics.median(seconds):.1f}{among} | {runs[-1][1]}", flush=True)


if __name__ == "__main__":
    main()
