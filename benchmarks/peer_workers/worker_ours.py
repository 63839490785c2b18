"""pytest-bertology itself, from texts; its store and its cache of tokenized tasks are empty each time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from serving import ABLATION, CLASSIFIER, Peer, Setting, Work, serve

from pytest_bertology import HeadMask, ResultStore, head_importance, load_model, load_task, using_store
from pytest_bertology.engine import encoding
from pytest_bertology.measures.sweeping import evaluate_masks


class Ours(Peer):
    packages = ("pytest-bertology", "transformers")

    def __init__(self, kind: str, folder: Path) -> None:
        kinds = "sequence-classification" if kind == CLASSIFIER else "causal-lm"
        self.model = load_model(folder / "model", kind=kinds, device="cpu")
        self.task = load_task(json.loads((folder / "task.json").read_text()))
        self.masks = [HeadMask.without(self.model.heads, [head]) for head in self.model.heads]


class OurWork(Work):
    """As its users call it: no setting is chosen for it."""

    peer: Ours

    def tune(self, what: str) -> Setting:
        self.run(what)
        return Setting(0, 0)

    def run(self, what: str, *_: object) -> np.ndarray:
        encoding._cache.clear()
        with using_store(ResultStore()):
            if what != ABLATION:
                return head_importance(self.peer.model, self.peer.task).values.reshape(-1)
            variants = evaluate_masks(self.peer.model, self.peer.task, self.peer.masks).variants
        return np.stack([v.losses if v.logits is None else v.logits for v in variants])


if __name__ == "__main__":
    serve(Ours, OurWork)
