"""A worker's side: reads a command a line from stdin, does its workload, answers in a line on stdout.

Imported in every environment: needs torch and numpy alone. All workers bring examples of like length together and pad
them to the longest of them; how many tokens a pass holds, and how many variants, each has found best for itself.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ABLATION, IMPORTANCE = "ablation", "importance"
CLASSIFIER, LANGUAGE = "classifier", "language"
Head = tuple[int, int]


@dataclass(frozen=True)
class Setting:
    """How much one forward pass holds."""

    tokens: int
    """Padded tokens; 1: one example at a time."""
    variants: int = 1
    """Ablations of the same examples side by side."""


SETTINGS = tuple(Setting(tokens) for tokens in (256, 512, 1024, 2048))
STACKED = tuple(Setting(setting.tokens, variants) for variants in (1, 12) for setting in SETTINGS)


@dataclass(frozen=True)
class Batch:
    """Examples of like length."""

    positions: list[int]
    ids: Tensor
    mask: Tensor
    labels: Tensor

    def repeated(self, times: int) -> Batch:
        """All rows, and all again."""
        tensors = (tensor.repeat(times, *[1] * (tensor.ndim - 1)) for tensor in (self.ids, self.mask, self.labels))
        return Batch(self.positions * times, *tensors)

    @property
    def inputs(self) -> dict[str, Tensor]:
        return {"input_ids": self.ids, "attention_mask": self.mask}


class Peer:
    """A package's way to do the work, on one model."""

    packages: Sequence[str] = ()
    """Whose versions to report."""
    settings: dict[str, Sequence[Setting]] = {ABLATION: SETTINGS, IMPORTANCE: SETTINGS}  # noqa: RUF012
    """What to choose from."""

    def __init__(self, kind: str, folder: Path) -> None:
        """Load the model; raise NotImplementedError with the reason where the package cannot."""
        raise NotImplementedError

    def ablations(self, batch: Batch, heads: Sequence[Head], variants: int) -> Tensor:
        """(heads, batch, ...) what is asked for without each of these heads, `variants` of them in one pass."""
        groups = [heads[start : start + variants] for start in range(0, len(heads), variants)]
        return torch.cat([self.ablated(batch, group) for group in groups])

    def ablated(self, batch: Batch, heads: Sequence[Head]) -> Tensor:
        """The same in one pass: (heads, batch, outputs) of a classifier, (heads, batch) mean losses."""
        raise NotImplementedError

    def sensitivities(self, batch: Batch) -> Tensor:
        """(batch, layers * heads) the loss's derivative by each head's gate."""
        raise NotImplementedError


def load(kind: str, folder: Path, **options: str) -> nn.Module:
    """The workload's transformers model, in eval mode."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    auto = AutoModelForSequenceClassification if kind == CLASSIFIER else AutoModelForCausalLM
    return auto.from_pretrained(folder / "model", **options).eval()


def losses(logits: Tensor, batch: Batch) -> Tensor:
    """(batch,) cross entropy: of the classes, or the mean over the next tokens."""
    if logits.ndim == 2:
        return torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none")
    each = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), batch.ids[:, 1:], reduction="none")
    judged = batch.mask[:, 1:]
    return (each * judged).sum(dim=1) / judged.sum(dim=1)


def result(logits: Tensor, batch: Batch) -> Tensor:
    """What an ablation is asked for."""
    return logits if logits.ndim == 2 else losses(logits, batch)


class Work:
    """One model and its examples."""

    def __init__(self, peer: type[Peer], kind: str, folder: Path) -> None:
        with np.load(folder / "examples.npz", allow_pickle=False) as examples:
            self.ids, self.lengths, self.labels, shape = (
                torch.from_numpy(examples[name]) for name in ("ids", "lengths", "labels", "shape")
            )
        self.heads = [(layer, head) for layer in range(int(shape[0])) for head in range(int(shape[1]))]
        self.peer = peer(kind, folder)
        self.best: dict[str, Setting] = {}

    def tune(self, what: str) -> Setting:
        """The setting that is fastest on a sixth of the heads."""
        part = self.heads[:: max(1, len(self.heads) // 12)] if what == ABLATION else self.heads
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        times = {}
        self.run(what, heads=part[:1])  # first passes are slower
        for setting in self.peer.settings[what]:
            start = clock()
            self.run(what, setting, part)
            times[setting] = clock() - start
        self.best[what] = min(times, key=times.__getitem__)
        return self.best[what]

    def run(self, what: str, setting: Setting | None = None, heads: Sequence[Head] | None = None) -> np.ndarray:
        """(heads, examples, ...) for an ablation, (heads,) for importance."""
        setting = setting or self.best.get(what) or self.peer.settings[what][0]
        return self._ablation(setting, heads or self.heads) if what == ABLATION else self._importance(setting)

    def _ablation(self, setting: Setting, heads: Sequence[Head]) -> np.ndarray:
        found: dict[int, Tensor] = {}
        for batch in self.batches(max(1, setting.tokens // setting.variants)):
            together = self.peer.ablations(batch, heads, setting.variants)
            found.update(zip(batch.positions, together.unbind(dim=1), strict=True))
        return torch.stack([found[i] for i in range(len(found))], dim=1).numpy()

    def _importance(self, setting: Setting) -> np.ndarray:
        total = torch.zeros(len(self.heads), dtype=torch.float64)
        for batch in self.batches(setting.tokens):
            total += self.peer.sensitivities(batch).detach().abs().double().sum(dim=0)
        return (total / len(self.lengths)).numpy()

    def batches(self, tokens: int) -> Iterator[Batch]:
        """The examples from the shortest to the longest, padded to at most so many tokens."""
        lengths = self.lengths.tolist()
        groups: list[list[int]] = []
        for position in sorted(range(len(lengths)), key=lengths.__getitem__):
            if groups and lengths[position] * (len(groups[-1]) + 1) <= tokens:
                groups[-1].append(position)
            else:
                groups.append([position])
        for group in groups:
            longest = lengths[group[-1]]
            mask = (torch.arange(longest) < self.lengths[group][:, None]).long()
            yield Batch(group, self.ids[group, :longest], mask, self.labels[group])


def serve(peer: type[Peer], work: type[Work] = Work) -> None:
    """Answer commands until stdin ends. Whatever the packages print goes to stderr."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        at_work: dict[str, Work] = {}
        for line in sys.stdin:
            try:
                answer = _answer(json.loads(line), peer, work, arguments.folder, at_work)
            except NotImplementedError as error:
                answer = {"cannot": str(error)}
            except Exception as error:  # noqa: BLE001 - told to the driver, which judges it
                traceback.print_exc()
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), file=answers, flush=True)


def _answer(
    command: dict[str, Any], peer: type[Peer], work: type[Work], folder: Path, at_work: dict[str, Work]
) -> dict[str, Any]:
    if command["do"] == "versions":
        return {"versions": {name: importlib.metadata.version(name) for name in ("torch", *peer.packages)}}
    kind, what = command["kind"], command["what"]
    if kind not in at_work:
        at_work[kind] = work(peer, kind, folder / kind)
    if command["do"] == "tune":
        return {"setting": vars(at_work[kind].tune(what))}
    seconds, cpu = time.perf_counter(), time.process_time()
    array = at_work[kind].run(what)
    seconds, cpu = time.perf_counter() - seconds, time.process_time() - cpu
    np.savez(command["into"], result=array)
    return {"seconds": seconds, "cpu": cpu}
