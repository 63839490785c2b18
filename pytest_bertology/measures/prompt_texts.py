"""Prompts of items, and the tokens that label words are after them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Any

from pytest_bertology.engine.encoding import max_length
from pytest_bertology.errors import InvalidArgument, MalformedData
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.items import PAIR, SPAN, TEXT, WORD, Items

Ids = tuple[int, ...]

CONTENT_FREE = ("N/A", "[MASK]", "")
"""What stands for every field of a prompt without content: Zhao et al. 2021, section 5."""
_FIELDS = {WORD: ("text", "item"), SPAN: ("text", "item"), PAIR: ("text", "first", "second")}
_NEEDED = {WORD: ("item",), SPAN: ("item",), PAIR: ("first", "second")}


@dataclass(frozen=True)
class Asked:
    """A prompt as the model reads it, and each label word as it goes on."""

    prompt: Ids
    words: tuple[Ids, ...]
    """Tokens of each word after the prompt; at least one each."""

    def __len__(self) -> int:
        """Tokens of the longest text that the model has to read."""
        return len(self.prompt) + max(map(len, self.words)) - 1


def label_words_of(words: object) -> dict[Any, tuple[str, ...]]:
    """The words of each label, labels ascending by their text; raises InvalidArgument."""
    expected = "a word, or several, for each label, such as {'positive': 'good', 'negative': ['bad', 'awful']}"
    if not isinstance(words, Mapping) or len(words) < 2:
        raise InvalidArgument("label_words", words, f"{expected}: two labels at least")
    found: dict[Any, tuple[str, ...]] = {}
    known: dict[str, Any] = {}
    for label in sorted(words, key=lambda label: (isinstance(label, str), label)):
        own = (words[label],) if isinstance(words[label], str) else words[label]
        if not isinstance(own, Sequence) or not own or not all(isinstance(each, str) for each in own):
            raise InvalidArgument(f"label_words[{label!r}]", words[label], expected)
        for each in own:
            if not each.strip():
                raise InvalidArgument(f"label_words[{label!r}]", each, "a word, and no empty text")
            if each.strip() in known:
                expected = f"words that differ: {known[each.strip()]!r} has this one too"
                raise InvalidArgument(f"label_words[{label!r}]", each, expected)
            known[each.strip()] = label
        found[label] = tuple(own)
    return found


def check_prompt(prompt: object, items: Items) -> None:
    """Raise InvalidArgument for a template that says nothing of items of this kind, or asks for what they have not."""
    fields = _fields_of(items)
    needed = _NEEDED.get(items.level, fields)
    named = ", ".join(f"{{{field}}}" for field in fields)
    asked = " or ".join(f"{{{field}}}" for field in needed)
    expected = f"a text with {asked} in it; of {items.level}s it can name {named} (a brace itself is written twice)"
    if not isinstance(prompt, str):
        raise InvalidArgument("prompt", prompt, expected)
    try:
        parsed = list(Formatter().parse(prompt))
    except ValueError:
        raise InvalidArgument("prompt", prompt, expected) from None
    used = {field for _, field, _, _ in parsed if field is not None}
    plain = not any(form or conversion for _, _, form, conversion in parsed)
    if not plain or not used <= set(fields) or not used & set(needed):
        raise InvalidArgument("prompt", prompt, expected)


def prompts_of(prompt: str, items: Items) -> list[str]:
    """The prompt of each item."""
    found = []
    for text, spans in zip(items.text_of.tolist(), items.spans, strict=True):
        whole = items.texts[text]
        if items.level == TEXT:
            parts = [whole] if isinstance(whole, str) else list(whole)
        else:
            parts = [whole, *(whole[a:b] for a, b in spans)]
        found.append(prompt.format(**dict(zip(_fields_of(items), parts, strict=True))))
    return found


def without_content(prompt: str, items: Items) -> list[str]:
    """The prompt of no item: `CONTENT_FREE` in place of all fields."""
    return [prompt.format(**dict.fromkeys(_fields_of(items), each)) for each in CONTENT_FREE]


def read_prompts(model: ModelUnderTest, name: str, prompts: Sequence[str], words: Sequence[str]) -> list[Asked]:
    """Tokenize prompts, and each with every word after it.

    White space where the two meet is that of the prompt, else the word's, else one space; it is the word's first
    character for the tokenizer. Special tokens that it puts at the end are left out. Raises MalformedData for a prompt
    of no tokens, or one of which the tokens are others when a word follows.
    """
    tokenizer = model.needs_tokenizer()
    stems = [prompt.rstrip() for prompt in prompts]
    gaps = [prompt[len(stem) :] for prompt, stem in zip(prompts, stems, strict=True)]
    starts = _ids(tokenizer, stems)
    whole = [
        _ids(tokenizer, [stem + _joined(gap, word) for stem, gap in zip(stems, gaps, strict=True)]) for word in words
    ]
    found = []
    for index, start in enumerate(starts):
        if not start:
            raise MalformedData(name, f"the prompt of item {index} has no tokens: {prompts[index]!r}")
        for word, ids in zip(words, whole, strict=True):
            if ids[index][: len(start)] != start or len(ids[index]) == len(start):
                reason = (
                    f"the tokens of {stems[index][-80:]!r} are others when {word!r} follows, or nothing is left of it: "
                    "end the prompt with a whole word or a mark, or take another label word"
                )
                raise MalformedData(name, reason)
        found.append(Asked(start, tuple(ids[index][len(start) :] for ids in whole)))
    return found


def fitting(model: ModelUnderTest, asked: Sequence[Asked]) -> list[int]:
    """Positions of those that the model can read to the end."""
    limit = max_length(model)
    return [index for index, each in enumerate(asked) if len(each) <= limit]


def _joined(gap: str, word: str) -> str:
    return gap + word.lstrip() if gap else word if word[:1].isspace() else f" {word}"


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[Ids]:
    options = {"return_attention_mask": False, "return_special_tokens_mask": True, "verbose": False}
    read = tokenizer(list(texts), truncation=False, **options)
    found = []
    for ids, special in zip(read["input_ids"], read["special_tokens_mask"], strict=True):
        end = len(ids)
        while end and special[end - 1]:
            end -= 1
        found.append(tuple(ids[:end]))
    return found


def _fields_of(items: Items) -> tuple[str, ...]:
    if items.level != TEXT:
        return _FIELDS[items.level]
    return ("text",) if isinstance(items.texts[0], str) else ("first", "second")
