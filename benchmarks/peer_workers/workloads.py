"""What all do: minilm-sst2 on sentences of SST-2, and a GPT-2 of random weights on random tokens.

Each is a folder with the model, `examples.npz` (token ids, lengths, labels, layers and heads) and, for ours,
`task.json`, the columns of a task whose texts make the same token ids.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.utils import logging

LENGTH = 64
VOCABULARY = 8192


def classifier(folder: Path, assets: Path, sentences: int) -> None:
    folder.mkdir(parents=True)
    checkpoint = (assets / "checkpoints" / "minilm-sst2").resolve()
    (folder / "model").symlink_to(checkpoint)
    rows = [
        line.split("\t") for line in (assets / "data" / "sst2" / "dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
    ]
    texts, labels = [row[0] for row in rows[:sentences]], [int(row[1]) for row in rows[:sentences]]
    ids = AutoTokenizer.from_pretrained(checkpoint)(texts, truncation=True)["input_ids"]
    _save(folder, ids, labels, {"text": texts, "label": labels})


def language(folder: Path, sequences: int) -> None:
    """6 layers of 12 heads, 384 wide; weights large enough that every head moves the loss."""
    folder.mkdir(parents=True)
    logging.disable_progress_bar()
    torch.manual_seed(0)
    words = {f"t{number}": number for number in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="t0", pad_token="t0", bos_token="t0", eos_token="t0"
    ).save_pretrained(folder / "model")
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_layer=6,
        n_head=12,
        n_embd=384,
        n_positions=2 * LENGTH,
        initializer_range=0.08,
        bos_token_id=0,
        eos_token_id=0,
    )
    GPT2LMHeadModel(config).save_pretrained(folder / "model")
    ids = torch.randint(1, VOCABULARY, (sequences, LENGTH)).tolist()
    _save(folder, ids, [0] * sequences, {"text": [" ".join(f"t{i}" for i in row) for row in ids]})


def _save(folder: Path, ids: list[list[int]], labels: list[int], columns: dict[str, list[object]]) -> None:
    lengths = [len(row) for row in ids]
    padded = np.zeros((len(ids), max(lengths)), dtype=np.int64)
    for row, values in zip(padded, ids, strict=True):
        row[: len(values)] = values
    np.savez(folder / "examples.npz", ids=padded, lengths=lengths, labels=labels, shape=(6, 12))
    (folder / "task.json").write_text(json.dumps(columns))
