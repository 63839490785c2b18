"""A tiny real model and a tiny task, for tests of what is built on them; every head moves the results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pytest_bertology.models import ModelUnderTest, load_model
from pytest_bertology.tasks import Task, load_task

LAYERS, HEADS, WIDTH = 2, 4, 4
LABELS = ("negative", "positive")
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (
    "a",
    "the",
    "film",
    "plot",
    "cast",
    "joke",
    "scene",
    "was",
    "is",
    "felt",
    "good",
    "bad",
    "dull",
    "long",
    "flat",
)
_CLASSES = {
    "sequence-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "regression": "ForSequenceClassification",
    "masked-lm": "ForMaskedLM",
    "causal-lm": "LMHeadModel",
}


def tiny_model(kind: str = "sequence-classification", family: str = "bert", seed: int = 0) -> ModelUnderTest:
    """2 layers of 4 heads; `family` is "bert", or "gpt2" for causal-lm; "regression" is a classifier of one output."""
    tokenizer = _tokenizer(family)
    common: dict[str, Any] = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    labels = ["value"] if kind == "regression" else list(LABELS)
    common |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    if family == "gpt2":
        config: Any = transformers.GPT2Config(
            n_layer=LAYERS, n_head=HEADS, n_embd=HEADS * WIDTH, n_positions=32, bos_token_id=2, eos_token_id=3, **common
        )
    else:
        config = transformers.BertConfig(
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            hidden_size=HEADS * WIDTH,
            intermediate_size=32,
            max_position_embeddings=32,
            **common,
        )
    model: PreTrainedModel = getattr(transformers, {"bert": "Bert", "gpt2": "GPT2"}[family] + _CLASSES[kind])(config)
    redraw(model, seed)
    model.eval()
    if kind == "sequence-classification":
        _balance(model, tokenizer)
    loaded = "sequence-classification" if kind == "regression" else kind
    return load_model(model, kind=loaded, tokenizer=tokenizer)


def tiny_task(n: int = 24, model: ModelUnderTest | None = None, seed: int = 0) -> Task:
    """`n` different sentences, labelled in turn, or as `model` itself has it: then it is right on all of them."""
    texts = sentences(n, seed)
    if model is None:
        return load_task({"text": texts, "label": [LABELS[i % 2] for i in range(n)]})
    return load_task({"text": texts, "label": [LABELS[i] for i in says(model.model, model.tokenizer, texts)]})


def sentences(n: int, seed: int = 0) -> list[str]:
    """`n` different sentences of 3 to 8 words."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, None] = {}
    while len(found) < n:
        length = int(torch.randint(3, 9, (1,), generator=generator))
        picks = torch.randint(len(WORDS), (length,), generator=generator).tolist()
        found[" ".join(WORDS[i] for i in picks)] = None
    return list(found)


def says(model: PreTrainedModel, tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """The class of each text, by the plain transformers model, one text at a time."""
    return logits(model, tokenizer, texts).argmax(dim=-1).tolist()


def logits(model: PreTrainedModel, tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
    """(texts, outputs), by the plain transformers model, one text at a time."""
    with torch.no_grad():
        return torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])


def redraw(model: PreTrainedModel, seed: int) -> None:
    """Weights a good deal larger than a fresh model's, so that no head is lost beside the residual stream."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.6, generator=generator)


def _balance(model: PreTrainedModel, tokenizer: Any) -> None:
    """Move the classifier's bias so that either label is said of half of some sentences."""
    found = logits(model, tokenizer, sentences(64, seed=99))
    with torch.no_grad():
        model.classifier.bias[0] += (found[:, 1] - found[:, 0]).median()


def _tokenizer(family: str) -> PreTrainedTokenizerFast:
    """One token per word."""
    vocabulary = {word: i for i, word in enumerate((*_SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if family == "bert":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
        )
    names = {f"{token.strip('[]').lower()}_token": token for token in _SPECIAL}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
