"""One value of a test beside its baseline: read, compared, told, and noted where it is to be written."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_bertology.baselines.compare import compare_entries, entry_of
from pytest_bertology.baselines.comparison import Comparison, Limits
from pytest_bertology.baselines.explain import explained
from pytest_bertology.baselines.files import Entry, digest_of
from pytest_bertology.baselines.provenance import differing, provenance_of
from pytest_bertology.baselines.records import Record, record
from pytest_bertology.checks.verdicts import Verdict, give
from pytest_bertology.deferred.handles import unwrapped
from pytest_bertology.errors import BertologyWarning, CannotMeasure, InvalidArgument
from pytest_bertology.measures.evaluation import Outcomes
from pytest_bertology.measures.noise_floor import check_above_noise
from pytest_bertology.measures.origins import Origin, made_by, origin_of
from pytest_bertology.plugin.baselines import CHECK, Noted, Running, _shown, model_of, reference_of, warn_once
from pytest_bertology.rounding import rounded_up

if TYPE_CHECKING:
    from pytest_bertology.models import ModelUnderTest

WRITTEN = {
    "new": "new baseline",
    "changed": "baseline replaced",
    "all": "baseline replaced",
    "same": "baseline unchanged",
}
"""What becomes of a value that is not compared."""
_NAMES = {"HeadScores": "importance", "AttentionStatistics": "attention"}


@dataclass(frozen=True)
class Checked:
    """A value with all that is known of it."""

    running: Running
    noted: Noted
    key: str
    origin: Origin | None
    model: ModelUnderTest | None
    value: Any
    found: Record
    entry: Entry

    @classmethod
    def of(cls, running: Running, value: Any, name: str | None) -> Checked:
        """Read a value; one that is a function is called with the test's model first."""
        item, noted = running.item, running.noted
        assert noted is not None, item
        value, model = unwrapped(value), unwrapped(model_of(running))  # what was answered from memory is made now
        origin = origin_of(value)
        if origin is None and callable(value):
            if model is None:
                raise InvalidArgument("value", value, "a test that uses bertology_model, to call that function with")
            origin = made_by(value, model)
            value = unwrapped(value(model))
            origin = origin_of(value) or origin
        model = origin.model if origin is not None and origin.model is not None else model
        found, entry = _read(value, origin, model)
        key = f"{noted.test}/{_name(name, found)}"
        noted.ask(key, digest_of(entry))
        return cls(running, noted, key, origin, model, value, found, entry)

    def refuse_below_noise(self, limits: Limits) -> None:
        """Raise ToleranceBelowNoise where noise is measured and can use up the tolerance of a score."""
        __tracebackhide__ = True
        if limits.tolerance is not None and isinstance(self.value, Outcomes) and self.model is not None:
            task = self.value.task.with_metric(self.value.metric)
            check_above_noise(self.model, task, limits.tolerance, limits.relative)

    def against_kept(self, limits: Limits) -> Comparison:
        """Compare with the entry of the file, or note that it is to be written."""
        __tracebackhide__ = True
        update, noted = self.running.update, self.noted
        before = self.running.entries(noted.file).get(self.key)
        if before is None:
            itself = self._with_itself(limits)
            return self._missing() if update == "none" else self._written("new", Comparison(new=True), None, itself)
        if update == "all":
            same = digest_of(before) == digest_of(self.entry)
            found = Comparison(replaced=not same)
            return self._written("same" if same else "all", found, before, self._with_itself(limits))
        found = replace(compare_entries(before, self.found, self.entry, limits), name=self.key)
        if not found.passed and update == "changed":
            found = replace(found, passed=True, inconclusive=False, replaced=True)
            return self._written("changed", found, before, self._with_itself(limits))
        if found.better:
            noted.better.append(self.key)
        return self._told(found, before, "stored")

    def against_reference(self, limits: Limits) -> Comparison:
        """Compare with the same measure of the reference model."""
        __tracebackhide__ = True
        if self.origin is None:
            raise CannotMeasure(
                f"what {self.key!r} is compared with",
                str(self.running.reference),
                "what was checked is a plain value, and no measure's result that could be made of another model: give "
                "check a function of a model, such as check(lambda model: evaluate(model, task).score, ...)",
            )
        other = unwrapped(reference_of(self.running.config, self.running))
        value = unwrapped(self.origin.on(other))
        made = origin_of(value) or replace(self.origin, _model=made_by(self.origin.function, other)._model)
        _, before = _read(value, made, other)
        found = compare_entries(before, self.found, self.entry, limits, between_models=True)
        return self._told(replace(found, name=self.key), before, "reference")

    def _with_itself(self, limits: Limits) -> Comparison:
        """What an equal model will be told; raises for limits that do not fit the value, before it is kept."""
        __tracebackhide__ = True
        return compare_entries(self.entry, self.found, self.entry, limits)

    def _warn_of(self, itself: Comparison) -> None:
        """Say at once where no model could ever hold against what is written."""
        if itself.passed:
            return
        said = f"baseline {self._short!r}: {itself.judged} {itself.observed:.4g}, required {itself.required}"
        if itself.inconclusive:
            need = "Give more examples" if itself.needed is None else f"Give about {itself.needed:,} examples"
            said = (
                f"an equal model will be inconclusive against the baseline {self._short!r}: {itself.examples} examples "
                f"cannot establish a drop {itself.required}, even where nothing changed. {need}, or a tolerance of "
                f"{rounded_up(itself.observed or 0.0)}"
            )
        warnings.warn(said, BertologyWarning, stacklevel=5)

    @property
    def _short(self) -> str:
        return self.key.rpartition("/")[2]

    def _missing(self) -> Comparison:
        __tracebackhide__ = True
        shown = _shown(self.noted.file, self.running.config.rootpath)
        found = Comparison(
            name=self.key,
            passed=False,
            observed=0.0,
            judged="baselines that are kept",
            required=">= 1",
            told=f"no baseline {self._short!r}",
            title=f"there is no baseline {self.key!r} in {shown}",
            lines=("  Look at the value, run with --bertology-update=new, and commit the file.",),
        )
        return self._told(found, None, "stored")

    def _written(self, how: str, found: Comparison, before: Entry | None, itself: Comparison) -> Comparison:
        """Note what is to be written once the test has passed, and say so."""
        self._warn_of(itself)
        if how != "same":
            self.noted.writes[self.key] = self.entry
        self.noted.how[self.key] = how
        score = _score(self.entry)
        told = replace(
            found,
            name=self.key,
            told=f"{self._short}: {_said_of(how, before, self.entry)}",
            observed=score,
            judged=WRITTEN[how],
            required="none: it is not compared",
            metric=None,
            baseline=None,
            score=score,
            examples=self.entry["match"].get("examples"),
        )
        return self._told(told, None, "stored")

    def _told(self, found: Comparison, before: Entry | None, compared_with: str) -> Comparison:
        """Give the verdict; what differs of the surroundings is warned of."""
        __tracebackhide__ = True
        if compared_with == "stored":
            warn_once(self.noted, found.differs)
        verdict = self._verdict(found, before, compared_with)
        give(verdict, lambda: explained(found, self._about(before, compared_with)))
        return found

    def _verdict(self, found: Comparison, before: Entry | None, compared_with: str) -> Verdict:
        recorded = differing((before or self.entry)["recorded"], self.entry["recorded"])
        provenance = [f"{name}: {change}" for name, change in {**found.differs, **recorded}.items()]
        power = {"power": list(found.power)} if found.power else {}
        tests: dict[str, Any] = {"tests": found.tests} if found.tests else {}
        tests |= {} if found.confidence is None else {"confidence": found.confidence}
        return Verdict(
            check=CHECK,
            passed=found.passed,
            observed=found.observed,
            required=found.required,
            judged=found.judged,
            model=None if self.model is None else self.model.name,
            task=self._data(),
            metric=found.metric,
            baseline=found.baseline,
            score=found.score,
            examples=found.examples,
            heads=found.heads,
            details={
                "baseline": {
                    "name": self.key,
                    "file": _shown(self.noted.file, self.running.config.rootpath),
                    "compared_with": self.running.reference if compared_with == "reference" else compared_with,
                    "by": compared_with,
                    "provenance": provenance,
                    "rows": dict(found.rows),
                    "better": found.better,
                    "value": digest_of(self.entry),
                    "written": self.noted.how.get(self.key),
                    "told": self._line(found),
                },
                **power,
                **tests,
            },
            inconclusive=found.inconclusive,
            p_value=found.p_value,
            evidence=dict(found.evidence),
        )

    def _line(self, found: Comparison) -> str:
        """What a report says of it, where that is no number beside its limit."""
        return found.told if not found.told or self._short in found.told else f"{self._short}: {found.told}"

    def _about(self, before: Entry | None, compared_with: str) -> dict[str, str]:
        where = _shown(self.noted.file, self.running.config.rootpath)
        said = f"{self.key} in {where}" if compared_with == "stored" else f"{self.key}, of {self.running.reference}"
        about: dict[str, str] = {"compared": said}
        if self.model is not None:
            about["model"] = f"{self.model.name} ({self.model.heads.describe()})"
        data = self._data()
        if data:
            about["data"] = data
        if before is not None and compared_with == "stored":
            about["of"] = _of(before["recorded"])
        return about

    def _data(self) -> str | None:
        data = self.entry["recorded"].get("data")
        return str(data) if data else None


def _said_of(how: str, before: Entry | None, now: Entry) -> str:
    """Such as "new baseline: accuracy 0.9100" and "baseline replaced: accuracy 0.9250 → 0.9750"."""
    old, new = (None if each is None else _score(each) for each in (before, now))
    if new is None:
        return WRITTEN[how]
    metric = now["match"].get("metric")
    was = f"{_figure(old, metric)} → " if old is not None and how != "same" else ""
    return f"{WRITTEN[how]}: {metric + ' ' if metric else ''}{was}{_figure(new, metric)}"


def _figure(score: float, metric: Any) -> str:
    return f"{score:.4f}" if metric else f"{score:.6g}"


def _score(entry: Entry) -> float | None:
    """The one number that an entry is of, if it is of one."""
    score = entry["content"].get("score")
    if score is None:
        values = entry["content"].get("number", {}).get("values", {})
        score = values.get("value") if isinstance(values, dict) else None
    return float(score) if isinstance(score, int | float) else None


def _of(recorded: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {recorded[name]}" for name in ("torch", "transformers") if name in recorded)
    return f"{recorded.get('model', 'an unknown model')} (weights {recorded.get('weights', 'unknown')}; {versions})"


def _read(value: Any, origin: Origin | None, model: ModelUnderTest | None) -> tuple[Record, Entry]:
    config = None if model is None else model.model.config
    found = record(value, getattr(config, "id2label", None))
    return found, entry_of(found, provenance_of(origin, model, by_head=found.by_head))


def _name(name: str | None, found: Record) -> str:
    if name is None:
        kind = str(found.match["value"])
        return _NAMES.get(kind, kind.lower())
    if not isinstance(name, str) or not name.strip() or not name.isprintable() or "/" in name:
        raise InvalidArgument("name", name, "a name for the baseline, without a slash, such as 'accuracy'")
    return name
