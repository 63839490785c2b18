"""Tiny models of five families with weights large enough that every head matters, and what is known of them.

Nothing here asks the package where the heads are: widths come from each family's own configuration.
"""

from __future__ import annotations

import copy
import inspect
import random
import string
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import transformers
from hypothesis import settings
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.pytorch_utils import Conv1D

from pytest_bertology.models import ModelUnderTest, load_model
from pytest_bertology.tasks import Task

LAYERS, HEADS, KV_HEADS, LABELS, POSITIONS = 2, 4, 2, 3, 40
CLASSES = {
    "sequence-classification": "ForSequenceClassification",
    "token-classification": "ForTokenClassification",
    "masked-lm": "ForMaskedLM",
    "causal-lm": "ForCausalLM",
}
FAMILIES = {
    "bert": ("sequence-classification", "token-classification", "masked-lm"),
    "roberta": ("sequence-classification", "token-classification", "masked-lm"),
    "distilbert": ("sequence-classification", "token-classification", "masked-lm"),
    "gpt2": ("sequence-classification", "token-classification", "causal-lm"),
    "llama": ("sequence-classification", "token-classification", "causal-lm"),
}
EVERY = [(name, kind) for name, kinds in FAMILIES.items() for kind in kinds]
PROJECTIONS = {
    "bert": "encoder.layer.{}.attention.output.dense",
    "roberta": "encoder.layer.{}.attention.output.dense",
    "distilbert": "transformer.layer.{}.attention.out_lin",
    "gpt2": "h.{}.attn.c_proj",
    "llama": "layers.{}.self_attn.o_proj",
}
"""Where each family keeps its output projections, below its base model."""
WORDS = [*string.ascii_lowercase]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *(f"##{letter}" for letter in WORDS)]
few = settings(max_examples=8, deadline=None, database=None, derandomize=True)
"""Hypothesis settings for properties that run a model."""


def family(
    name: str,
    kind: str = "sequence-classification",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> PreTrainedModel:
    """A model of two layers of four heads of six, in eval mode; `changes` go to its configuration."""
    sizes: dict[str, Any] = {"vocab_size": len(VOCABULARY) + 1, "num_labels": LABELS, "pad_token_id": 0}
    if name in ("bert", "roberta"):
        sizes |= {"hidden_size": 24, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
        sizes |= {"intermediate_size": 32, "max_position_embeddings": POSITIONS}
    if name == "roberta":
        sizes |= {"pad_token_id": 1, "max_position_embeddings": POSITIONS + 2}
    if name == "distilbert":
        sizes |= {"dim": 24, "n_layers": LAYERS, "n_heads": HEADS, "hidden_dim": 32}
        sizes |= {"max_position_embeddings": POSITIONS}
    if name == "gpt2":
        sizes |= {"n_embd": 24, "n_layer": LAYERS, "n_head": HEADS, "n_positions": POSITIONS}
        sizes |= {"bos_token_id": 2, "eos_token_id": 3}
    if name == "llama":
        sizes |= {"hidden_size": 20, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
        sizes |= {"num_key_value_heads": KV_HEADS, "head_dim": 6, "intermediate_size": 32}
        sizes |= {"max_position_embeddings": POSITIONS, "bos_token_id": 2, "eos_token_id": 3}
    prefix = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert", "gpt2": "GPT2", "llama": "Llama"}[name]
    ending = "LMHeadModel" if (name, kind) == ("gpt2", "causal-lm") else CLASSES[kind]
    config = getattr(transformers, f"{prefix}Config")(**{**sizes, **changes})
    model = getattr(transformers, prefix + ending)(config)
    return redraw(model, seed).to(dtype).eval()


def redraw(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """Draw all weights anew, an order of magnitude larger than an initialisation has them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = name.endswith("weight") and parameter.ndim == 1
            parameter.copy_(1 + 0.1 * noise if scale else (0.3 if parameter.ndim > 1 else 0.1) * noise)
    return model


def tokenizer() -> PreTrainedTokenizerFast:
    """Words of letters, each word split into its letters: `abc` is `a ##b ##c`, between [CLS] and [SEP]."""
    ids = {token: index for index, token in enumerate(VOCABULARY)}
    backend = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_input_names=["input_ids", "token_type_ids", "attention_mask"], **names
    )


def under_test(name: str, kind: str = "sequence-classification", **options: Any) -> ModelUnderTest:
    """`family(name, kind, **options)`, loaded with the tokenizer above."""
    return load_model(family(name, kind, **options), tokenizer=tokenizer())


def texts(count: int, seed: int = 0, longest: int = 9) -> list[str]:
    """Texts of one to `longest` words of one to three letters."""
    draw = random.Random(seed)
    return [" ".join(_word(draw) for _ in range(draw.randint(1, longest))) for _ in range(count)]


def _word(draw: random.Random) -> str:
    return "".join(draw.choices(WORDS, k=draw.randint(1, 3)))


def task_for(kind: str, count: int = 10, seed: int = 0, longest: int = 9) -> Task:
    """A task with labels drawn at random, of the kind that such a model does."""
    sentences, draw = texts(count, seed, longest), random.Random(seed + 1)
    if kind in ("causal-lm", "masked-lm"):
        return Task("letters", "language-modelling", tuple(sentences), None)
    if kind == "token-classification":
        words = tuple(tuple(sentence.split()) for sentence in sentences)
        return Task("letters", kind, words, tuple(tuple(draw.randrange(LABELS) for _ in row) for row in words))
    labels = [index % LABELS for index in range(count)]
    draw.shuffle(labels)
    return Task("letters", kind, tuple(sentences), tuple(labels))


def padded_batch(model: PreTrainedModel, lengths: Iterable[int] = (7, 4, 6), seed: int = 0) -> dict[str, torch.Tensor]:
    """Letters at random, padded on the right with the model's own padding id."""
    draw, rows = random.Random(seed), list(lengths)
    padding = model.config.pad_token_id
    ids = torch.full((len(rows), max(rows)), padding or 0)
    attention = torch.zeros_like(ids)
    for row, length in enumerate(rows):
        ids[row, :length] = torch.tensor(draw.choices(range(5, len(VOCABULARY)), k=length))
        attention[row, :length] = 1
    return {"input_ids": ids, "attention_mask": attention}


def real(logits: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The logits of real tokens; sequence logits as they are."""
    return logits if logits.ndim == 2 else logits[batch["attention_mask"].bool()]


def plain_inputs(model: PreTrainedModel, task: Task) -> Iterator[dict[str, torch.Tensor]]:
    """Each example by itself as plain transformers would run it, with labels for the model's own loss.

    Not for masked language models: which tokens are masked is the package's own choice.
    """
    read, known = tokenizer(), inspect.signature(model.forward).parameters
    for index, text in enumerate(task.texts):
        words = task.kind == "token-classification"
        pair = text if task.pairs else (list(text) if words else text,)
        tokens = read(*pair, is_split_into_words=words, return_tensors="pt")
        if words:
            found = tokens.word_ids()
            firsts = [word is not None and word != before for word, before in zip(found, [None, *found], strict=False)]
            labels = [[task.labels[index][w] if first else -100 for w, first in zip(found, firsts, strict=True)]]
        else:
            labels = tokens.input_ids.tolist() if task.labels is None else [task.labels[index]]
        dtype = model.dtype if task.kind == "regression" else torch.long
        inputs = {name: value for name, value in tokens.items() if name in known}
        yield inputs | {"labels": torch.tensor(labels, dtype=dtype)}


def head_size(model: PreTrainedModel) -> int:
    """Numbers per head, from the family's own configuration."""
    config = model.config
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def projections(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The output projections, by the names this file knows."""
    path = PROJECTIONS[model.config.model_type]
    return [model.base_model.get_submodule(path.format(layer)) for layer in range(model.config.num_hidden_layers)]


def zeroed(model: ModelUnderTest, heads: Iterable[tuple[int, int]]) -> PreTrainedModel:
    """A deep copy in which the projection weights that read these heads are zero."""
    twin, size = copy.deepcopy(model.model), head_size(model.model)
    with torch.no_grad():
        for layer, head, *_ in heads:
            projection = twin.get_submodule(model.sites[layer].name)
            read = slice(head * size, (head + 1) * size)
            weight = projection.weight
            (weight if isinstance(projection, Conv1D) else weight.T)[read] = 0.0
    return twin
