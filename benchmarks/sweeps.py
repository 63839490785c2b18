"""Leave-one-out sweeps: every head masked in turn, ours against running the model once for each mask.

The naive ways mask the same heads by the same gates, and know nothing of each other's passes: "our batches" is
`evaluate` in a loop, sorted and batched as ours is; "padded to 128" and "dynamic padding" take batches of 32 in the
data's order. Every way is run in turn, several rounds in one process, and the ratio of each round's times is taken:
the machine's moods then fall on all alike. Tokenization is part of every way; our result store is empty each time.
The numbers must agree: losses within 1e-5, and predictions.

    python benchmarks/sweeps.py [--assets ../shared/assets] [--rounds 3] [--threads 1] [--only NAME ...] [--full]

Exits with 1 where a ratio is below what is promised. --full sweeps all 872 sentences of SST-2 dev, once.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from pytest_bertology import Batching, HeadMask, ResultStore, Sweeping, evaluate, load_model, load_task, using_store
from pytest_bertology.engine import encoding
from pytest_bertology.measures.sweeping import evaluate_masks
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks import Task

Way = Callable[[], np.ndarray]
"""Gives the losses, (masks, examples)."""


@dataclass(frozen=True)
class Case:
    """One workload, ours, and what it is measured against with the ratio that is promised."""

    title: str
    ours: Way
    others: dict[str, tuple[Way, float]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--assets", type=Path, default=Path(__file__).parents[2] / "shared" / "assets")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=None, help="cases whose title holds one of these words")
    parser.add_argument("--full", action="store_true", help="all of SST-2 dev, one round")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    minilm = load_model(arguments.assets / "checkpoints" / "minilm-sst2", device="cpu")
    dev = load_task(arguments.assets / "data" / "sst2" / "dev.tsv")
    if arguments.full:
        return report([full(minilm, dev)], 1, arguments, rank=True)
    cases = [
        *uniform("6-layer BERT (minilm-sst2)", minilm, 16, 1.65, 2.2),
        *uniform("12-layer BERT", bert(12), 8, 1.8, None),
        short(minilm),
        lengths(minilm, dev),
        language(),
    ]
    only = arguments.only
    chosen = [case for case in cases if only is None or any(word in case.title for word in only)]
    return report(chosen, arguments.rounds, arguments)


def uniform(name: str, model: ModelUnderTest, count: int, whole: float, narrow: float | None) -> list[Case]:
    """Texts of 64 tokens, without and with the step that computes the last layer at [CLS] alone."""
    task = words(count, 62)
    naive = {"naive, our batches": lambda: by_evaluate(model, task)}
    return [
        Case(
            f"{name}, length 64, every token of the last layer",
            lambda: ours(model, task, Sweeping(narrow=False)),
            {key: (way, whole) for key, way in naive.items()},
        ),
        Case(
            f"{name}, length 64",
            lambda: ours(model, task),
            {key: (way, narrow or whole) for key, way in naive.items()},
        ),
    ]


def short(model: ModelUnderTest) -> Case:
    """Two texts of 16 tokens, all there is."""
    task = words(2, 14)
    return Case(
        "6-layer BERT (minilm-sst2), batches of 32 tokens",
        lambda: ours(model, task),
        {"naive, our batches": (lambda: by_evaluate(model, task), 3.0)},
    )


def lengths(model: ModelUnderTest, dev: Task) -> Case:
    """Every twenty-seventh sentence of SST-2 dev."""
    task = dev.subset(range(0, 864, 27))
    return Case(
        "6-layer BERT (minilm-sst2), SST-2 dev lengths",
        lambda: ours(model, task),
        {
            "naive, padded to 128, batch 32": (lambda: padded(model, task, 128), 6.0),
            "naive, dynamic padding, batch 32": (lambda: padded(model, task, None), 2.0),
            "naive, our batches": (lambda: by_evaluate(model, task), 1.0),
        },
    )


def language() -> Case:
    """A GPT-2 of the published size, weights at random: its loss on texts of 64 tokens, three heads of each layer."""
    tokens = tokenizer(special=False)
    torch.manual_seed(0)
    config = GPT2Config(bos_token_id=0, eos_token_id=0, pad_token_id=0)
    model = load_model(GPT2LMHeadModel(config), tokenizer=tokens)
    task = Task("words", "language-modelling", words(4, 64).texts, None)
    masks = [HeadMask.without(model.heads, [(layer, head)]) for layer in range(12) for head in (0, 4, 8)]
    return Case(
        "GPT-2 (124 M), loss, length 64, three heads of each layer",
        lambda: ours(model, task, masks=masks),
        {"naive, our batches": (lambda: by_evaluate(model, task, masks), 1.4)},
    )


def full(model: ModelUnderTest, dev: Task) -> Case:
    """All 72 heads on all 872 sentences."""
    return Case(
        "6-layer BERT (minilm-sst2), all 872 sentences of SST-2 dev, 72 heads",
        lambda: ours(model, dev),
        {"naive, our batches": (lambda: by_evaluate(model, dev), 1.0)},
    )


def singles(model: ModelUnderTest) -> list[HeadMask]:
    return [HeadMask.without(model.heads, [head]) for head in model.heads]


def ours(
    model: ModelUnderTest, task: Task, sweeping: Sweeping | None = None, masks: Sequence[HeadMask] | None = None
) -> np.ndarray:
    encoding._cache.clear()
    with using_store(ResultStore()):
        found = evaluate_masks(model, task, masks or singles(model), sweeping=sweeping)
    return np.stack([outcomes.losses for outcomes in found.variants])


def by_evaluate(model: ModelUnderTest, task: Task, masks: Sequence[HeadMask] | None = None) -> np.ndarray:
    encoding._cache.clear()
    with using_store(ResultStore()):
        return np.stack([evaluate(model, task, mask, batching=Batching()).losses for mask in masks or singles(model)])


def padded(model: ModelUnderTest, task: Task, to: int | None, size: int = 32) -> np.ndarray:
    """The loop that most scripts hold: batches in the data's order."""
    labels = torch.tensor(task.label_ids(model.model.config.id2label, model.name))
    losses = []
    for mask in singles(model):
        with torch.inference_mode(), model.masked(mask):
            for start in range(0, len(task), size):
                texts = list(task.texts[start : start + size])
                padding = "longest" if to is None else "max_length"
                inputs = model.tokenizer(texts, padding=padding, max_length=to, truncation=True, return_tensors="pt")
                logits = model.model(**inputs).logits
                losses.append(torch.nn.functional.cross_entropy(logits, labels[start : start + size], reduction="none"))
    return torch.cat(losses).reshape(len(model.heads), len(task)).numpy()


def words(count: int, length: int) -> Task:
    """Texts of as many different words each, one token a word."""
    known = ["good", "bad", "film", "plot", "fine", "dull", "long", "story", "scene", "music", "light", "dark", "time"]
    texts = tuple(" ".join(known[(i * 7 + j * 3 + j // 5) % len(known)] for j in range(length)) for i in range(count))
    return Task("words", "sequence-classification", texts, tuple(i % 2 for i in range(count)))


def tokenizer(special: bool = True) -> PreTrainedTokenizerFast:
    names = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *dict.fromkeys(" ".join(words(4, 64).texts).split())]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if special:
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


def bert(layers: int) -> ModelUnderTest:
    """As wide as minilm-sst2, with weights at random."""
    torch.manual_seed(0)
    config = BertConfig(hidden_size=384, num_hidden_layers=layers, intermediate_size=1536, num_labels=2)
    return load_model(BertForSequenceClassification(config), tokenizer=tokenizer())


def report(cases: Sequence[Case], rounds: int, arguments: argparse.Namespace, rank: bool = False) -> int:
    print(f"torch {torch.__version__}, {arguments.threads} threads, {rounds} rounds, medians\n", flush=True)
    print("| workload | ours, seconds | against | ratio, median of rounds (min-max) | promised | largest difference |")
    print("|---|---:|---|---:|---:|---:|", flush=True)
    missed = 0
    for case in cases:
        times: dict[str, list[float]] = {"": [], **{name: [] for name in case.others}}
        differences = dict.fromkeys(case.others, 0.0)
        if rounds > 1:
            case.ours()  # finds out how the model is run, and warms up
        for _ in range(rounds):
            found = timed(case.ours, times[""])
            for name, (way, _) in case.others.items():
                theirs = timed(way, times[name])
                differences[name] = float(np.abs(theirs - found).max())
                if rank:
                    same = np.array_equal(np.argsort(theirs.mean(axis=1)), np.argsort(found.mean(axis=1)))
                    print(
                        f"heads ranked by their mean loss: {'the same order' if same else 'ANOTHER ORDER'}", flush=True
                    )
        for name, (_, promised) in case.others.items():
            ratios = [other / own for other, own in zip(times[name], times[""], strict=True)]
            ratio, difference = statistics.median(ratios), differences[name]
            missed += ratio < promised or difference > 1e-5
            spread = f"{ratio:.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            own = statistics.median(times[""])
            print(f"| {case.title} | {own:.2f} | {name} | {spread} | {promised} | {difference:.0e} |", flush=True)
    return int(missed > 0)


def timed(way: Way, times: list[float]) -> np.ndarray:
    start = time.perf_counter()
    found = way()
    times.append(time.perf_counter() - start)
    return found


if __name__ == "__main__":
    sys.exit(main())
