"""What a value was made of: what must match for a comparison to mean anything, what is warned of, what is told."""

from __future__ import annotations

import hashlib
import inspect
import json
import platform
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from pytest_bertology.errors import BertologyError
from pytest_bertology.measures.origins import Origin

if TYPE_CHECKING:
    from pytest_bertology.models import ModelUnderTest

_DIGITS = 16
"""Of SHA-256, in a file that people read."""
_MINOR = ("torch", "transformers")
_TEXTS = (
    "The Quick BROWN fox's naïve café — 3.14 €, 1,000 of 2024!",
    "  two  spaces, a\ttab\nand a line; [MASK] <unk> </s> don't",
    "Привет мир, 北京 ١٢٣ ǅ ﬁ 😀",
)
"""Capitals, accents, numbers, spaces, what looks like special tokens, and scripts: where tokenizers differ."""
_ADVICE = {
    "data": "it is judged on other data",
    "tokens": "the tokenizer reads the same data differently",
    "tokenizer": "it reads capitals, accents, special tokens or other scripts differently",
    "labels": "the model's labels have other names, or another order",
    "heads": "the model has other layers or heads",
}


@dataclass(frozen=True)
class Provenance:
    """Plain values by name."""

    match: Mapping[str, Any] = field(default_factory=dict)
    """Where one of them differs, nothing is compared."""
    warn: Mapping[str, Any] = field(default_factory=dict)
    recorded: Mapping[str, Any] = field(default_factory=dict)


def provenance_of(origin: Origin | None, model: ModelUnderTest | None, *, by_head: bool) -> Provenance:
    """Of a value made by a measure, or (origin None) by the test's own code of `model`, where that is known.

    `by_head`: whether the value has a number for each head, so that models must have the same heads.
    """
    model = model if origin is None or origin.model is None else origin.model
    match: dict[str, Any] = {}
    warn: dict[str, Any] = {}
    recorded = {"python": platform.python_version(), "platform": f"{platform.system()} {platform.machine()}"}
    recorded |= {"data": getattr(origin.data, "name", "")} if origin is not None else {}
    if origin is not None:
        match |= {"measure": origin.measure, **_given(origin)}
        warn["state"] = origin.state
    for package in (*_MINOR, "pytest-bertology"):
        known = _version(package)
        recorded[package] = known
        if package in _MINOR:
            warn[package] = ".".join(known.split(".")[:2])
    if model is not None:
        (match if by_head else warn)["heads"] = model.heads.describe()
        warn |= _of_model(model)
        recorded |= {"model": model.name, "weights": model.weights_digest()[:_DIGITS]}
        revision = getattr(model.model.config, "_commit_hash", None)
        recorded |= {"revision": revision} if revision else {}
        if origin is not None:
            match |= {"tokens": tokens_digest(model, origin.data), "tokenizer": tokenizer_digest(model)}
    return Provenance(_known(match), _known(warn), _known(recorded))


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """What differs of what both know, each as `before → now`."""
    names = sorted(set(before) & set(now))
    return {name: f"{_said(before[name])} → {_said(now[name])}" for name in names if before[name] != now[name]}


def advice(name: str) -> str:
    """What it means that this differs, in a few words."""
    return _ADVICE.get(name, "")


def _of_model(model: ModelUnderTest) -> dict[str, Any]:
    return {
        "architecture": type(model.model).__name__,
        "device": model.device.type,
        "dtype": model.dtype,
        "attention": str(getattr(model.model.config, "_attn_implementation", None)),
    }


def tokens_digest(model: ModelUnderTest, data: Any) -> str | None:
    """Of the token ids (and types) that the model reads the data as; None for what is no task and no texts."""
    from pytest_bertology.engine.encoding import encode
    from pytest_bertology.engine.texts import read_texts
    from pytest_bertology.tasks.task import Task

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of texts that are too long the measure has told
        try:
            encoded = encode(model, data) if isinstance(data, Task) else read_texts(model, data).encoded
        except BertologyError:
            try:
                encoded = read_texts(model, data).encoded
            except (BertologyError, TypeError, AttributeError):
                return None
    sha = hashlib.sha256()
    for example in encoded.examples:
        sha.update(repr((example.ids, example.types)).encode())
    return sha.hexdigest()[:_DIGITS]


def tokenizer_digest(model: ModelUnderTest) -> str | None:
    """Of how the tokenizer reads a few fixed texts: data in small letters does not show that others are no longer."""
    if model.tokenizer is None:
        return None
    try:
        read = [list(model.tokenizer(text)["input_ids"]) for text in _TEXTS]
    except Exception:  # noqa: BLE001 - of tokenizers that read other things than strings, nothing is said
        return None
    return hashlib.sha256(repr(read).encode()).hexdigest()[:_DIGITS]


def data_digest(data: Any) -> str | None:
    """Of a task, of texts, or of other plain data; None for what cannot be told apart by what it shows of itself."""
    own = getattr(data, "digest", None)
    if isinstance(own, str):
        return own[:_DIGITS]
    shown = json.dumps(list(data)) if _is_texts(data) else repr(data)
    if re.search(r" at 0x[0-9a-f]+|array\(.*\.\.\.", shown, re.DOTALL):
        return None
    return hashlib.sha256(shown.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


def _is_texts(data: Any) -> bool:
    return isinstance(data, list | tuple) and all(isinstance(text, str | tuple | list) for text in data)


def _given(origin: Origin) -> dict[str, Any]:
    """The data, and each option that is not the measure's default; batching changes no result."""
    parameters = inspect.signature(origin.function).parameters
    names = list(parameters)[1:]
    given = {**dict(zip(names, origin.arguments, strict=False)), **origin.options}
    found: dict[str, Any] = {}
    for index, name in enumerate(names):
        if name not in given or name == "batching":
            continue
        value = given[name]
        if index == 0 and name in ("task", "texts", "data", "sentences"):
            found["data"] = data_digest(value)
        elif not _same(value, parameters[name].default):
            found[f"option {name}"] = _plain(value)
    return found


def _same(value: Any, default: Any) -> bool:
    try:
        return value is default or bool(value == default)
    except ValueError:  # arrays
        return False


def _plain(value: Any) -> Any:
    """An option as text or a number; other things by a digest, or by the name of their type."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple | range) and all(isinstance(x, bool | int | float | str) for x in value):
        return list(value)
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    if hasattr(value, "masked") and hasattr(value, "gates"):
        return None  # a mask is told with the value
    return data_digest(value) or type(value).__name__


def _known(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _said(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(str, value)) + "]"
    return repr(value) if value == "" else str(value)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
