"""What one pytest session shares: loaded models and tasks, the result store, and the verdicts of the test under way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_bertology.names import EMBEDDED
from pytest_bertology.plugin import gpu_shares, workers
from pytest_bertology.plugin.options import Settings

if TYPE_CHECKING:
    from pytest_bertology.deferred.memory import Memory
    from pytest_bertology.heads import HeadMask
    from pytest_bertology.models import ModelUnderTest
    from pytest_bertology.models.state import ModelState
    from pytest_bertology.tasks import Task


@dataclass
class LoadedModel:
    """A model of the session, how to load it again, and its state as it was loaded."""

    model: ModelUnderTest
    source: str | None
    """None for a model of a fixture of the user's own, which cannot be loaded again."""
    options: Mapping[str, Any]
    state: ModelState


@dataclass
class Session:
    """The state of one pytest session; empty, and importing nothing, until a test asks for a model."""

    config: pytest.Config
    settings: Settings
    models: dict[tuple[Any, ...], LoadedModel] = field(default_factory=dict)
    tasks: dict[tuple[Any, ...], Task] = field(default_factory=dict)
    misused: list[str] = field(default_factory=list)
    """What is wrong with the markers that were collected."""
    given: ModelUnderTest | None = None
    """What `bertology_model` gave last."""
    call: ExitStack | None = None
    """What is in force during the call of a test under way."""
    stack: ExitStack = field(default_factory=ExitStack)
    started: bool = False
    handles: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    """What stands for models that a folder of results knows."""
    memory: Memory | None = None
    """Answers of earlier runs, where results are kept in a folder."""

    @property
    def store_folder(self) -> Path | None:
        """Where results are kept across sessions, or shared by workers of this one; None for nowhere."""
        return workers.store_folder(self.config, self.settings)

    def remember(self) -> None:
        """Answer what earlier sessions computed, where results are kept; not where this machine is measured."""
        if self.store_folder is None or self.settings.value("noise_floor") or self.memory is not None:
            return
        from pytest_bertology.deferred.memory import Memory, remembering

        decisive = {name: self.settings.value(name) for name in _DECISIVE}
        self.memory = Memory(self.store_folder, repr(sorted(decisive.items())), self.start)
        self.stack.enter_context(remembering(self.memory))

    def told_of_store(self) -> str:
        """What the store did for the calls of this process; "" where there is none, or it was not asked."""
        if self.memory is None or not self.memory.answered + self.memory.computed:
            return ""
        answered, computed = self.memory.answered, self.memory.computed
        return f"store: {answered} call{'s' * (answered != 1)} answered from {self.store_folder}, {computed} computed"

    def start(self) -> None:
        """Set up the result store and progress, once, when the first result has to be computed."""
        if self.started:
            return
        self.started = True
        from pytest_bertology.engine.progress import reporting_to
        from pytest_bertology.engine.store import ResultStore, using_store
        from pytest_bertology.plugin.progress import terminal_progress

        self.stack.enter_context(using_store(ResultStore(self.store_folder)))
        self.stack.enter_context(reporting_to(terminal_progress(self.config)))

    def close(self) -> None:
        """Give everything back."""
        self.models.clear()
        self.handles.clear()
        self.tasks.clear()
        self.stack.close()

    def model(self, source: Any = None, **options: Any) -> ModelUnderTest:
        """The model `source`, by default the session's own, loaded once; options override the session's.

        Skips the test where no model is named, or a GPU is asked for and there is none.
        """
        source = self._source() if source is None else source
        chosen = {name: self.settings.value(name) for name in _MODEL_OPTIONS} | options
        self._needs_gpu(chosen["device"])
        if not isinstance(source, str | Path):
            self.start()
            return self._live(source, chosen)
        folder = Path(source)
        place = str(folder.resolve()) if folder.is_dir() else str(source)
        key = (place, *((name, repr(chosen[name])) for name in sorted(chosen)))
        if key not in self.handles:
            self.handles[key] = self._handle(key, str(source), chosen)
        return cast("ModelUnderTest", self.handles[key])

    def _handle(self, key: tuple[Any, ...], source: str, chosen: Mapping[str, Any]) -> Any:
        """The model itself; or what stands for it, where results are kept and its files say which they are."""

        def load() -> ModelUnderTest:
            return self._loaded(key, source, chosen)

        self.remember()
        if self.memory is None or self.config.hook.pytest_bertology_load_model.get_hookimpls():
            return load()
        from pytest_bertology.deferred.models import model_handle

        return model_handle(source, chosen, load, self.memory)

    def _loaded(self, key: tuple[Any, ...], source: str, chosen: Mapping[str, Any]) -> ModelUnderTest:
        self.start()
        if key not in self.models:
            from pytest_bertology.models.state import ModelState

            model = self._load(source, chosen)
            self.models[key] = LoadedModel(model, source, chosen, ModelState.capture(model.model))
        return self.models[key].model

    def handed_out(self, model: ModelUnderTest) -> None:
        """Note the model of `bertology_model`; asked for within a call (`request.getfixturevalue`), mask it now."""
        self.given = model
        if self.call is not None and (mask := self.asked_mask(model)) is not None:
            self.call.enter_context(model.masked(mask))

    @contextmanager
    def calling(self, unnamed: bool) -> Iterator[ExitStack]:
        """What is in force during a test's call; `unnamed`: it may ask for `bertology_model` while it runs."""
        with ExitStack() as stack:
            if unnamed and self.given is not None and (mask := self.asked_mask(self.given)) is not None:
                stack.enter_context(self.given.masked(mask))
            self.call = stack if unnamed else None
            try:
                yield stack
            finally:
                self.call = None

    def adopt(self, model: Any) -> None:
        """Look after a model that a fixture of the user's own gives, as after one the session loaded."""
        if model is None or model in self.handles.values():
            return
        from pytest_bertology.models import ModelUnderTest
        from pytest_bertology.models.state import ModelState

        if isinstance(model, ModelUnderTest) and all(known.model is not model for known in self.models.values()):
            self.models["adopted", id(model)] = LoadedModel(model, None, {}, ModelState.capture(model.model))

    def contexts_open(self) -> dict[int, tuple[int, ...]]:
        """How many masks and changes of attention are in force on each model, in this thread."""
        return {id(known.model): known.model.contexts_open() for known in self.models.values()}

    def close_contexts(self, before: Mapping[int, tuple[int, ...]]) -> None:
        """Take away the masks and changes of attention that a test entered and did not leave."""
        for known in self.models.values():
            known.model.close_contexts(before.get(id(known.model), ()))

    def restore_models(self) -> list[str]:
        """Put every model back as it was loaded; load those anew whose weights were changed, and say which."""
        told = []
        for known in self.models.values():
            changed = known.state.restore()
            if changed:
                from pytest_bertology.errors import WeightsChanged
                from pytest_bertology.models.state import checksums

                told.append(str(WeightsChanged(known.model.name, changed)))
                if known.source is None:
                    told.append(
                        "A fixture of yours made it; it cannot be loaded again, and later tests see the change."
                    )
                    known.state = replace(known.state, weights=checksums(known.model.model))
                elif self._reload(known, known.source):
                    told.append(f"Loading {known.source} again gave other weights: later tests fail likewise.")
        return told

    def _reload(self, known: LoadedModel, source: str) -> list[str]:
        """Load a model anew into the object that fixtures have handed out; return the weights that still differ."""
        from pytest_bertology.models.state import ModelState, changed

        fresh = self._load(source, known.options)
        vars(known.model).update(vars(fresh))
        weights = known.state.weights
        state = ModelState.capture(fresh.model)
        known.state = replace(state, weights=weights)
        return changed(weights, state.weights)

    def task(self, asked: Mapping[str, Any]) -> Task:
        """The task of the session, some of its settings replaced by what a marker asks for."""
        chosen = {name: self.settings.value(name) for name in _TASK_OPTIONS} | dict(asked)
        source = chosen.pop("task")
        if source is None:
            pytest.skip("no task to judge models on: give --bertology-task (a file, a hub name, or 'embedded')")
        self.remember()
        if self.memory is None:
            self.start()
        key = (repr(source), *((name, repr(value)) for name, value in sorted(chosen.items())))
        if key not in self.tasks:
            self.tasks[key] = _load_task(source, chosen)
        return self.tasks[key]

    def mask(self, model: ModelUnderTest, heads_masked: Any = None) -> HeadMask:
        """The head mask to test `model` under: the marker's, else the file's, else the hook's, else none masked."""
        from pytest_bertology.heads import HeadMask

        asked = self.asked_mask(model, heads_masked)
        return HeadMask.keep_all(model.heads) if asked is None else asked

    def asked_mask(self, model: ModelUnderTest, heads_masked: Any = None) -> HeadMask | None:
        """`mask`, where somebody asks for one."""
        if heads_masked is not None:
            return model.as_mask(heads_masked)
        file = self.settings.value("head_mask")
        if file is not None:
            from pytest_bertology.heads import HeadMask

            return HeadMask.from_json(Path(file).read_text(encoding="utf-8"), model.heads, source=str(file))
        if not self.config.hook.pytest_bertology_head_mask.get_hookimpls():
            return None
        found = self.config.hook.pytest_bertology_head_mask(model=model, config=self.config)
        return None if found is None else model.as_mask(found)

    def _source(self) -> str:
        models = self.settings.value("model")
        if not models:
            pytest.skip("no model to test: give --bertology-model (a folder, a hub name, or 'embedded')")
        return str(models[0])

    def _needs_gpu(self, device: Any) -> None:
        if str(device).startswith("cuda"):
            import torch

            if not torch.cuda.is_available():
                self.missing_gpu(f"device {device} was asked for")

    def missing_gpu(self, why: str) -> None:
        """Skip, or fail under --bertology-require-gpu."""
        reason = f"{why}, and torch sees no CUDA device"
        if self.settings.value("require_gpu"):
            pytest.fail(f"{reason} (--bertology-require-gpu)", pytrace=False)
        pytest.skip(reason)

    def _load(self, source: str, options: Mapping[str, Any]) -> ModelUnderTest:
        from pytest_bertology.models import ModelUnderTest, load_model

        gpu_shares.limit_memory(self.config, self.settings, options.get("device"))
        own = self.config.hook.pytest_bertology_load_model(source=source, config=self.config)
        if isinstance(own, ModelUnderTest):
            return own
        if own is not None:
            model, tokenizer = own if isinstance(own, tuple) else (own, options.get("tokenizer"))
            return load_model(model, tokenizer=tokenizer, kind=options.get("kind"))
        if source == EMBEDDED:
            from pytest_bertology.embedded import load_embedded_model
            from pytest_bertology.models.loading import place

            return load_embedded_model(place(options["device"]))
        return load_model(source, **options)

    def _live(self, source: Any, options: Mapping[str, Any]) -> ModelUnderTest:
        from pytest_bertology.models import load_model

        given = {name: options[name] for name in ("kind", "tokenizer", "sample") if options.get(name) is not None}
        return load_model(source, **given)


_MODEL_OPTIONS = ("kind", "tokenizer", "revision", "device", "dtype", "trust_remote_code")
_DECISIVE = ("inconclusive", "correction", "update", "reference")
"""Settings that decide what a check says of the same results."""
_TASK_OPTIONS = ("task", "split", "text", "label", "metric")


def _load_task(source: Any, chosen: Mapping[str, Any]) -> Task:
    from pytest_bertology.tasks import Task, load_task

    if source == EMBEDDED:
        from pytest_bertology.embedded import load_embedded_task

        return load_embedded_task(chosen["split"] or "test", metric=chosen["metric"])
    if isinstance(source, Task):
        return source
    text = chosen["text"]
    columns = [part.strip() for part in text.split(",")] if isinstance(text, str) else text
    return load_task(source, **{**chosen, "text": columns})


session_key = pytest.StashKey[Session]()
mask_key = pytest.StashKey["HeadMask"]()
verdicts_key = pytest.StashKey[list[dict[str, Any]]]()
