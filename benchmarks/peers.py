"""Head ablation sweeps and gradient head importance: ours against the packages that people use for them.

    python benchmarks/peers.py [--peers captum nnsight ...] [--sentences 64] [--sequences 16] [--rounds 5] [--threads 1]

Each package (transformer-lens, nnsight, captum, and transformers below 5 for its `head_mask`) has a virtual environment
of its own under --env-folder, built by pip at the first run, with this environment's version of torch. A worker process
for each loads the models once; then all run in turn, one at a time, so that a round's times can be compared.

All do the same work: every head of minilm-sst2 left out on the first sentences of SST-2 dev (logits), every head of a
GPT-2 of random weights on random tokens (losses), and on both the expected sensitivity of the loss to each head's gate.
All get batches of like length; each package has tried beforehand how many tokens and variants of its own pass are
fastest for it. Ours starts from texts, the others from token ids.

Exits with 1 where a package gives other numbers than ours, is faster than ours in every round, cannot be installed or
fails. Faster is judged by CPU time at one thread, where it measures the work and a busy machine hardly disturbs it;
else by the clock. All cells at five rounds take an idle core an hour; --cells, --sentences and --sequences take less.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
from peer_workers import environments, workloads

OURS = "pytest-bertology"
TOLERANCE = 1e-3
CELLS = [(kind, what) for kind in ("classifier", "language") for what in ("ablation", "importance")]


@dataclass(frozen=True)
class Package:
    """What to install, and what to run there."""

    environment: str
    requirements: tuple[str, ...]
    worker: tuple[str, ...]


_OLD = ("transformers<5",)
PEERS = {
    "transformer-lens": Package("transformer-lens", ("transformer-lens==4.3.0",), ("worker_transformer_lens.py",)),
    "nnsight": Package("nnsight", ("nnsight==0.8.1", "transformers==5.23.0"), ("worker_nnsight.py",)),
    "captum": Package("captum", ("captum==0.9.0", "transformers==5.23.0"), ("worker_captum.py",)),
    "run_bertology": Package("head_mask", _OLD, ("worker_head_mask.py",)),
    "head_mask, tuned": Package("head_mask", _OLD, ("worker_head_mask.py", "--tuned")),
}
"""The last two: the old script's own loop, and the best that can be had from its argument."""


def main() -> int:
    arguments = _arguments()
    troubles: list[str] = []
    with tempfile.TemporaryDirectory(prefix="pytest-bertology-peers-") as temporary:
        folder = Path(temporary)
        workloads.classifier(folder / "classifier", arguments.assets, arguments.sentences)
        workloads.language(folder / "language", arguments.sequences)
        workers = {OURS: Worker(Path(sys.executable), ("worker_ours.py",), folder, arguments.threads)}
        for name in arguments.peers:
            try:
                package = PEERS[name]
                python = environments.python_of(arguments.env_folder / package.environment, package.requirements)
                workers[name] = Worker(python, package.worker, folder, arguments.threads)
            except (RuntimeError, OSError) as error:
                troubles.append(f"{name} cannot be installed or started: {error}")
        try:
            print(f"{platform.machine()}, {arguments.threads} thread(s), {arguments.rounds} rounds", flush=True)
            for name, worker in workers.items():
                print(f"{name}: {', '.join(f'{package} {version}' for package, version in worker.versions.items())}")
            for kind, what in CELLS:
                if f"{kind} {what}" in arguments.cells:
                    troubles += compare(workers, kind, what, arguments, folder)
        finally:
            for worker in workers.values():
                worker.close()
    print("\n" + ("\n".join(["Not as it should be:", *troubles]) if troubles else "All agree, and none is faster."))
    return 1 if troubles else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--assets", type=Path, default=Path(__file__).parents[2] / "shared" / "assets")
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    names = [f"{kind} {what}" for kind, what in CELLS]
    parser.add_argument("--cells", nargs="*", choices=names, default=names, help="which of the comparisons")
    parser.add_argument("--sentences", type=int, default=64)
    parser.add_argument("--sequences", type=int, default=16, help="of 64 tokens, for the language model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--env-folder", type=Path, default=environments.default_folder())
    return parser.parse_args()


def compare(
    workers: Mapping[str, Worker], kind: str, what: str, arguments: argparse.Namespace, folder: Path
) -> list[str]:
    """One table; what is wrong with it, a sentence each."""
    cell, threads = f"{kind} {what}", arguments.threads
    print(f"\n## {cell}\n", flush=True)
    troubles: list[str] = []
    settings: dict[str, str] = {}
    for name, worker in workers.items():
        answer = worker.ask(do="tune", kind=kind, what=what)
        if "setting" in answer:
            settings[name] = "its own" if name == OURS else "{tokens} x {variants}".format(**answer["setting"])
        elif "cannot" in answer:
            print(f"{name} cannot: {answer['cannot']}\n", flush=True)
        else:
            troubles.append(f"{cell}: {name} failed: {answer['error']}")
    runs: dict[str, Runs] = {name: Runs() for name in settings}
    draw = random.Random(0)
    for _ in range(arguments.rounds):
        for name in draw.sample(list(runs), len(runs)):
            into = folder / "result.npz"
            answer = workers[name].ask(do="run", kind=kind, what=what, into=str(into))
            if "error" in answer:
                troubles.append(f"{cell}: {name} failed: {answer['error']}")
                runs[name].failed = True
                continue
            runs[name].add(answer, into)
    if OURS not in runs or runs[OURS].failed:
        return troubles
    ours = runs[OURS]
    print(
        "| package | tokens x variants a pass | seconds | ratio to ours (min-max) | of CPU time | greatest difference |"
    )
    print("|---|---|---:|---|---|---:|")
    for name, theirs in runs.items():
        if theirs.failed:
            continue
        ratios, cpu = _ratios(theirs.seconds, ours.seconds), _ratios(theirs.cpu, ours.cpu)
        same_shape = theirs.result.shape == ours.result.shape
        apart = float(np.abs(theirs.result - ours.result).max()) if same_shape else float("inf")
        judged = cpu if threads == 1 else ratios
        print(
            f"| {name} | {settings[name]} | {statistics.median(theirs.seconds):.2f} "
            f"| {_spread(ratios)} | {_spread(cpu)} | {apart:.1e} |",
            flush=True,
        )
        if not apart <= TOLERANCE:
            troubles.append(f"{cell}: {name} gives numbers up to {apart:.1e} from ours")
        if max(judged) < 1:
            troubles.append(f"{cell}: {name} is faster than ours, {statistics.median(judged):.2f} of its time")
    return troubles


def _ratios(theirs: Sequence[float], ours: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(theirs, ours, strict=True)]


def _spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


@dataclass
class Runs:
    """A worker's times, round by round, and its last result."""

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    result: Any = None
    failed: bool = False

    def add(self, answer: Mapping[str, Any], path: Path) -> None:
        self.seconds.append(answer["seconds"])
        self.cpu.append(answer["cpu"])
        with np.load(path, allow_pickle=False) as saved:
            self.result = saved["result"]
        path.unlink()


class Worker:
    """A process that does the work in its own environment; it sleeps while others run."""

    def __init__(self, python: Path, script: Sequence[str], folder: Path, threads: int) -> None:
        self._log = folder / f"{'-'.join(script)}.log"
        path = Path(__file__).parent / "peer_workers" / script[0]
        options = ["--folder", str(folder), "--threads", str(threads)]
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),
            "TQDM_DISABLE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        environment.pop("PYTHONPATH", None)
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [str(python), str(path), *script[1:], *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        answer = self.ask(do="versions")
        if "versions" not in answer:
            self.close()
            raise RuntimeError(answer.get("error"))
        self.versions: dict[str, str] = answer["versions"]

    def ask(self, **command: str) -> dict[str, Any]:
        """Its answer; an `error` with the end of what it printed where it is gone."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps(command) + "\n")
            stdin.flush()
            line = stdout.readline()
        except OSError:
            line = ""
        if line:
            return dict(json.loads(line))
        return {"error": f"the worker ended: {' / '.join(self._log.read_text().splitlines()[-3:])}"}

    def close(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()


if __name__ == "__main__":
    sys.exit(main())
