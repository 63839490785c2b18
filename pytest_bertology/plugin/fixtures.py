"""The fixtures. Their docstrings are what `pytest --fixtures` shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, cast

import pytest

from pytest_bertology.plugin.options import marker_arguments
from pytest_bertology.plugin.parametrization import ModelRequest
from pytest_bertology.plugin.session import Session, mask_key, session_key

if TYPE_CHECKING:
    from pytest_bertology.heads import HeadMask, HeadScores
    from pytest_bertology.measures.attention_maps import AttentionMaps
    from pytest_bertology.measures.hidden_states import HiddenStates
    from pytest_bertology.models import ModelUnderTest
    from pytest_bertology.tasks import Task


@pytest.fixture(scope="session")
def bertology_model(request: pytest.FixtureRequest) -> ModelUnderTest:
    """The transformer model to test, its attention heads found and its head gates proven to act.

    Named by ``--bertology-model`` (a folder, a hub name, or ``embedded``), ``BERTOLOGY_MODEL``, the ini option
    ``bertology_model`` or ``@pytest.mark.bertology(model=...)``; with several, each test runs once per model. Loaded
    once per session. During each test the heads that ``head_mask`` masks are masked; after it, gates, hooks, mode and
    ``requires_grad`` are put back, and a test that changed the weights fails.

    ``.model`` is the transformers model, ``.tokenizer`` its tokenizer, ``.heads`` its heads, ``.device`` where it
    runs; ``with bertology_model.masked([(2, 4)]):`` masks head 4 of layer 2.
    """
    asked: ModelRequest = getattr(request, "param", ModelRequest(None))
    with _clear_errors():
        model = _session(request).model(asked.source, **dict(asked.options))
        _session(request).handed_out(model)
    return model


@pytest.fixture(scope="session")
def bertology_task(request: pytest.FixtureRequest) -> Task:
    """The labelled examples that models are judged on, and the metric that judges.

    Named by ``--bertology-task`` (a .csv, .tsv, .jsonl or .parquet file, a hub name such as ``glue/sst2``, or
    ``embedded``), with ``--bertology-split``, ``--bertology-text``, ``--bertology-label`` and ``--bertology-metric``
    where the defaults do not fit; or by the marker: ``@pytest.mark.bertology(task=..., split=...)``.
    """
    with _clear_errors():
        return _session(request).task(getattr(request, "param", {}))


@pytest.fixture(scope="session")
def head_mask(request: pytest.FixtureRequest, bertology_model: ModelUnderTest) -> HeadMask:
    """The head mask that the test runs under; by default no head is masked.

    Set it in one of four ways: ``@pytest.mark.bertology(heads_masked=[(2, 4)])``, ``--bertology-head-mask FILE``
    (written with ``HeadMask.to_json()``), the hook ``pytest_bertology_head_mask``, or by overriding this fixture in a
    conftest or test module. It acts on ``bertology_model`` whether or not the test asks for this fixture.
    """
    with _clear_errors():
        return _session(request).mask(bertology_model, getattr(request, "param", None))


@pytest.fixture(scope="session")
def head_importance(
    request: pytest.FixtureRequest, bertology_model: ModelUnderTest, bertology_task: Task
) -> HeadScores:
    """How important each head of ``bertology_model`` is to ``bertology_task``, with no head masked.

    By ``--bertology-importance`` or ``@pytest.mark.bertology(importance=...)``: ``gradient`` (default), the expected
    sensitivity of each example's loss to the head's gate; ``gradient_per_token``, ``bertology``, ``taylor``,
    ``integrated_gradients``, ``ablation``, ``confidence`` (see ``pytest_bertology.head_importance``); ``random``, a
    control; or a method of your own (hook ``pytest_bertology_importance_method``). ``.top(k)``, ``.rank(head)`` and
    ``.normalized()`` read it; ``assert_heads_in_top`` and ``assert_ranking_agrees`` judge it.
    """
    from pytest_bertology.deferred.calls import remembered
    from pytest_bertology.deferred.handles import is_loaded, unwrapped

    method = getattr(request, "param", None) or _session(request).settings.value("importance")

    def measured() -> HeadScores:
        from pytest_bertology.measures.importance import head_importance as measure

        return measure(unwrapped(bertology_model), bertology_task, method)

    # A model that was not loaded yet has no mask in force: fixtures come before those of a test.
    with _clear_errors(), bertology_model.exactly(None) if is_loaded(bertology_model) else nullcontext():
        return cast("HeadScores", remembered("head_importance", [bertology_model, bertology_task, method], measured))


@pytest.fixture(scope="session")
def attention_maps(bertology_model: ModelUnderTest) -> Callable[..., AttentionMaps]:
    """A function that gives what every head of ``bertology_model`` attends to: ``maps = attention_maps(texts)``.

    ``texts`` is a list of strings, or a task such as ``bertology_task``. ``maps[2]`` holds an array (heads, tokens,
    tokens) for each text, without padding, from layer 2, counted from 0; ``maps.head((2, 4))`` one head's;
    ``maps.tokens`` the tokens. The model runs when a layer is asked for, under the masks in force then; more than
    ``limit=`` bytes (512 MiB) are refused beforehand. For figures over many texts take ``attention_statistics``,
    which keeps no maps.
    """
    from pytest_bertology.deferred.handles import unwrapped
    from pytest_bertology.measures.attention_maps import AttentionMaps

    return partial(AttentionMaps, unwrapped(bertology_model))


@pytest.fixture(scope="session")
def hidden_states(bertology_model: ModelUnderTest) -> Callable[..., HiddenStates]:
    """A function that gives the hidden states of ``bertology_model``: ``states = hidden_states(texts)``.

    ``texts`` is a list of strings, or a task such as ``bertology_task``. ``states[0]`` are the embeddings,
    ``states[n]`` what the n-th layer gives: an array (tokens, width) for each text, without padding; ``states.tokens``
    names the tokens. The model runs when a layer is asked for, under the masks in force then; more than ``limit=``
    bytes (512 MiB) are refused beforehand.
    """
    from pytest_bertology.deferred.handles import unwrapped
    from pytest_bertology.measures.hidden_states import HiddenStates

    return partial(HiddenStates, unwrapped(bertology_model))


@pytest.fixture(scope="session")
def load_bertology_model(request: pytest.FixtureRequest) -> Callable[..., ModelUnderTest]:
    """A function that loads further models: ``load_bertology_model(source, **options)``.

    ``source`` is a folder, a hub name, ``embedded`` or a live transformers model; options are those of
    ``pytest_bertology.load_model`` and default to the session's. Models loaded by name are shared by all tests.
    """
    return _session(request).model


@pytest.fixture(autouse=True)
def _bertology_mask_of_test(request: pytest.FixtureRequest) -> None:
    """Note the mask that the test's `bertology_model` runs under; the call itself is wrapped in the plugin."""
    if "bertology_model" not in request.fixturenames:
        return
    asked = marker_arguments(request.node.iter_markers("bertology"), request.node.nodeid, request.config)
    model = request.getfixturevalue("bertology_model")
    with _clear_errors():
        if "heads_masked" in asked:
            mask = _session(request).mask(model, asked["heads_masked"])
        else:
            mask = model.as_mask(request.getfixturevalue("head_mask"))
    request.node.stash[mask_key] = mask
    if "head_mask" in request.fixturenames:
        request.node.funcargs["head_mask"] = mask  # a marker goes before an overriding fixture


def _session(request: pytest.FixtureRequest) -> Session:
    return request.config.stash[session_key]


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Show this package's own errors as their message alone: the way through the fixture explains nothing."""
    from pytest_bertology.errors import BertologyError

    try:
        yield
    except BertologyError as error:
        raise pytest.fail.Exception(f"{type(error).__name__}: {error}", pytrace=False) from None
