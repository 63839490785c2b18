"""A checkpoint in: from a hub name, a folder or a live model to a `ModelUnderTest`."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from pytest_bertology.errors import (
    IncompleteCheckpoint,
    InvalidArgument,
    ModelNotFound,
    NoWeights,
)
from pytest_bertology.models import compiling
from pytest_bertology.models.kinds import auto_class, check_kind, kind_of, kind_of_config, kind_of_model, saved_class
from pytest_bertology.models.quiet import Quiet
from pytest_bertology.models.state import input_device
from pytest_bertology.models.under_test import ModelUnderTest
from pytest_bertology.names import DTYPES, EMBEDDED


def load_model(
    source: str | os.PathLike[str] | PreTrainedModel,
    *,
    kind: str | None = None,
    tokenizer: Any = None,
    revision: str | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    sample: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> ModelUnderTest:
    """Load a model, find its attention heads by running it, and prove that masks act on them.

    `source` is a hub name, a folder with a safetensors checkpoint, or a live model, which is used as it is. `kind`
    is by default what the checkpoint was saved as. `tokenizer` is a tokenizer, or where to load one from; by default
    it comes with the checkpoint. `device` "auto" takes a CUDA device where there is one; `dtype` None keeps the
    checkpoint's. `sample` holds the keyword inputs of one forward pass, where none can be made up from the
    configuration or its own would not reach all parts. A live model that was compiled (`torch.compile`) runs
    uncompiled while a mask is in force.

    Raises ModelNotFound, NoWeights, IncompleteCheckpoint or UnknownKind for a source that cannot be loaded, and
    NoAttentionHeads, CannotGate or SelfCheckFailed for a model whose heads cannot be masked exactly.
    """
    if sample is not None and not isinstance(sample, Mapping):
        raise InvalidArgument("sample", sample, "the keyword inputs of one forward pass, {'input_ids': ...}")
    live = compiling.original(source)
    if isinstance(live, PreTrainedModel):
        return _live(live, kind, tokenizer, device, dtype, sample)
    if not isinstance(source, str | os.PathLike):
        found = source.__name__ if isinstance(source, type) else type(source).__name__
        raise InvalidArgument("source", found, "a hub name, a folder or a live transformers PreTrainedModel")
    name = os.fspath(source)
    target, precision = place(device), _dtype(dtype)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    if not Path(name).is_dir():
        _refuse_files(name)
    elif not (Path(name) / "config.json").is_file():
        raise ModelNotFound(name, "the folder has no config.json: it is not a transformers checkpoint")
    with Quiet():
        config = from_source(AutoConfig, name, options)
        own = saved_class(config) if kind is None else None
        kind = check_kind(kind) if kind is not None else kind_of_config(config, name)
        model = _weights(name, kind, own or auto_class(kind), {**options, "dtype": precision or "auto"})
        found, reason = _tokenizer(name if tokenizer is None else tokenizer, options)
    model = model.to(target).eval()
    return ModelUnderTest(model, tokenizer=found, name=_short(name), kind=kind, sample=sample, no_tokenizer=reason)


def _live(
    model: PreTrainedModel,
    kind: str | None,
    tokenizer: Any,
    device: Any,
    dtype: Any,
    sample: Mapping[str, Any] | None,
) -> ModelUnderTest:
    """A live model stays where and as it is; asking for something else is an error rather than a hidden change."""
    if str(device) != "auto" and place(device).type != input_device(model).type:
        raise InvalidArgument(
            "device", str(device), f"'auto' or where the live model is ({input_device(model)}); move it first"
        )
    if dtype is not None and _dtype(dtype) != model.dtype:
        raise InvalidArgument("dtype", str(dtype), f"None or the live model's ({model.dtype}); convert it first")
    reason = "none was given with the model"
    if isinstance(tokenizer, str | os.PathLike):
        tokenizer, reason = _tokenizer(tokenizer, {})
    kind = _kind_of_live(model, kind)
    name = _short(model.name_or_path) if model.name_or_path else type(model).__name__
    return ModelUnderTest(model, tokenizer=tokenizer, name=name, kind=kind, sample=sample, no_tokenizer=reason)


def _kind_of_live(model: PreTrainedModel, kind: str | None) -> str:
    """A live model's kind; asking for another than its class has is an error, for its outputs would be misread."""
    if kind is None:
        return kind_of_model(model)
    own = kind_of(type(model).__name__)
    if check_kind(kind) not in (own, "encoder") and own is not None:
        raise InvalidArgument("kind", kind, f"None or {own!r}, which a {type(model).__name__} is")
    return kind


def from_source(auto: Any, name: str, options: Mapping[str, Any]) -> Any:
    """`auto.from_pretrained`, its many ways to say "not found" turned into one."""
    try:
        return auto.from_pretrained(name, **options)
    except Exception as error:
        raise ModelNotFound(name, _reason(name, error)) from error


def _reason(name: str, error: BaseException) -> str:
    first = textwrap.shorten(" ".join(str(error).split()).rstrip("."), 240)  # some list every model there is
    if not isinstance(error, OSError | ValueError | RuntimeError):
        first = f"{type(error).__name__}: {first}"
    if not Path(name).is_dir() and os.environ.get("HF_HUB_OFFLINE", "") in ("1", "true", "TRUE", "ON", "on"):
        return (
            f"it is no folder, it is not in the local Hugging Face cache, and HF_HUB_OFFLINE forbids asking the hub "
            f"({first})"
        )
    return first


def _refuse_files(name: str) -> None:
    path = Path(name)
    if name == EMBEDDED and not path.exists():
        raise ModelNotFound(name, "in Python it is pytest_bertology.load_embedded_model()")
    if path.is_file():
        raise ModelNotFound(name, "it is a file: give the folder that holds config.json and model.safetensors")
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or "\\" in name:
        raise ModelNotFound(name, f"there is no such folder (looked from {Path.cwd()})")


def _weights(name: str, kind: str, auto: Any, options: dict[str, Any]) -> PreTrainedModel:
    """The model with every weight from the checkpoint; none may be left to chance."""
    folder = Path(name)
    if folder.is_dir() and not any(folder.glob("*.safetensors")):
        raise NoWeights(name, sorted(path.name for path in folder.iterdir()))
    if all((folder / f"model.safetensors{ending}").is_file() for ending in ("", ".index.json")):
        both = "model.safetensors and model.safetensors.index.json"
        raise ModelNotFound(name, f"it holds two sets of weights, {both}: remove the older one")
    # Shapes that differ are reported with the missing weights below, instead of on a log that no one sees.
    load = {**options, "use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    model, info = _loaded(auto, name, load)
    missing = sorted(info["missing_keys"])
    if kind == "encoder" and missing and all(key.split(".")[0] == "pooler" for key in missing):
        # Checkpoints saved with a language-model head have no pooler; hidden states do not need one.
        model, info = _loaded(auto, name, {**load, "add_pooling_layer": False})
        missing = sorted(info["missing_keys"])
    mismatched = sorted(str(key[0] if isinstance(key, tuple | list) else key) for key in info["mismatched_keys"])
    if missing or mismatched:
        raise IncompleteCheckpoint(name, type(model).__name__, missing, mismatched)
    return model


def _loaded(auto: Any, name: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    try:
        model, info = auto.from_pretrained(name, **options)
    except RuntimeError as error:
        raise ModelNotFound(name, f"its weights do not fit its configuration ({_reason(name, error)})") from error
    except (OSError, ValueError, KeyError) as error:
        raise ModelNotFound(name, _reason(name, error)) from error
    except Exception as error:
        if type(error).__module__.startswith("safetensors"):
            raise ModelNotFound(name, f"its weights are damaged ({error})") from error
        raise
    return model, info


def _tokenizer(source: Any, options: Mapping[str, Any]) -> tuple[Any, str]:
    """The tokenizer, or None and why there is none; a missing one matters only once text has to be read."""
    if not isinstance(source, str | os.PathLike):
        return source, ""
    name = os.fspath(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        return None, f"none could be loaded from {name!r}: {str(error).splitlines()[0]}"
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        # What transformers makes up where there are no files: every word would be the unknown token.
        return None, f"{name!r} holds no vocabulary"
    return tokenizer, ""


def place(device: str | torch.device) -> torch.device:
    """The device of this name; "auto" is a CUDA device where there is one. Raises InvalidArgument."""
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise InvalidArgument("device", str(device), "'auto', 'cpu', 'cuda' or 'cuda:N'") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise InvalidArgument("device", str(device), "'auto' or 'cpu': torch sees no CUDA device here")
    return found


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return None
    if dtype not in DTYPES:
        raise InvalidArgument("dtype", dtype, "None or one of " + ", ".join(DTYPES))
    return getattr(torch, dtype)  # type: ignore[no-any-return]


def _short(name: str) -> str:
    """A folder's own name; a hub name as it is."""
    path = Path(name)
    return path.resolve().name if path.exists() else name
