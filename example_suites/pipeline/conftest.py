"""The sentences: those of the small grammar beside this file, or those of --bertology-task=dev.conllu."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from pytest_bertology import load_task, read_conllu


@pytest.fixture(scope="session")
def trees(request):
    own = request.config.getoption("bertology_task")
    if own is not None and own.endswith(".conllu"):
        return read_conllu(own)
    spec = spec_from_file_location("pipeline_sentences", Path(__file__).with_name("sentences.py"))
    grammar = module_from_spec(spec)
    spec.loader.exec_module(grammar)
    return grammar.sentences(300)


@pytest.fixture(scope="session")
def parts_of_speech(trees):
    return load_task(trees, label="upos")


@pytest.fixture(scope="session")
def relations(trees):
    """What each word is to the word it depends on; `label="arc"` asks the same of both words together."""
    return load_task(trees, label="deprel")
