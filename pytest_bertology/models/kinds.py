"""The kinds of model that can be loaded, and how a checkpoint's own kind is told from its architecture."""

from __future__ import annotations

from typing import Any

import transformers
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

from pytest_bertology.errors import UnknownKind
from pytest_bertology.names import KINDS

_AUTO_CLASSES = {
    "sequence-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
    "seq2seq-lm": "AutoModelForSeq2SeqLM",
    "image-classification": "AutoModelForImageClassification",
    "audio-classification": "AutoModelForAudioClassification",
    "encoder": "AutoModel",
}
_MAPPINGS = {
    "sequence-classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "token-classification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "seq2seq-lm": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "causal-lm": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "masked-lm": "MODEL_FOR_MASKED_LM_MAPPING_NAMES",
    "image-classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "audio-classification": "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
    "encoder": "MODEL_MAPPING_NAMES",
}
_SUFFIXES = {
    "ForSequenceClassification": "sequence-classification",
    "ForTokenClassification": "token-classification",
    "ForCausalLM": "causal-lm",
    "LMHeadModel": "causal-lm",
    "ForMaskedLM": "masked-lm",
    "ForImageClassification": "image-classification",
    "Model": "encoder",
}


def auto_class(kind: str) -> Any:
    """The transformers Auto class that loads `kind`; raises UnknownKind."""
    check_kind(kind)
    return getattr(transformers, _AUTO_CLASSES[kind])


def check_kind(kind: str) -> str:
    """Return `kind`, or raise UnknownKind."""
    if kind not in KINDS:
        raise UnknownKind(f"{kind!r} is not a kind of model", KINDS)
    return kind


def kind_of(architecture: str) -> str | None:
    """The kind of a model class, by its name in transformers' own tables, else by its ending; None if unknown."""
    for kind, mapping in _MAPPINGS.items():
        for names in getattr(modeling_auto, mapping).values():
            if architecture == names or (not isinstance(names, str) and architecture in names):
                return kind
    return next((kind for suffix, kind in _SUFFIXES.items() if architecture.endswith(suffix)), None)


def kind_of_config(config: Any, source: str) -> str:
    """The kind a checkpoint was saved as: "encoder" for classes of none of the kinds.

    Raises UnknownKind where its configuration does not tell.
    """
    architectures = _architectures(config)
    for architecture in architectures:
        kind = kind_of(architecture)
        if kind is not None:
            return kind
    if saved_class(config) is not None:
        return "encoder"
    named = ", ".join(architectures) or "none"
    raise UnknownKind(f"the kind of {source!r} cannot be told from its architectures ({named})", KINDS)


def saved_class(config: Any) -> Any:
    """The transformers class that a checkpoint was saved as, or None where its configuration names none it knows."""
    for name in _architectures(config):
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, PreTrainedModel):
            return found
    return None


def _architectures(config: Any) -> list[str]:
    named = getattr(config, "architectures", None) or []
    return [named] if isinstance(named, str) else list(named)


def kind_of_model(model: PreTrainedModel) -> str:
    """The kind of a live model; raises UnknownKind."""
    for base in type(model).__mro__:
        kind = kind_of(base.__name__) if issubclass(base, PreTrainedModel) and base is not PreTrainedModel else None
        if kind is not None:
            return kind
    raise UnknownKind(f"the kind of a {type(model).__name__} is not known", KINDS)
