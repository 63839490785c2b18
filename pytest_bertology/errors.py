"""Every error a user can meet. Each keeps what it found in fields and says what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_bertology.heads import Head, HeadMap


class BertologyError(Exception):
    """The base of every error this package raises on purpose."""


class BertologyWarning(UserWarning):
    """Something that does not make a result wrong, but that its reader should know."""


# -- values ------------------------------------------------------------------------------------------------------


class UnknownHead(BertologyError, LookupError):
    """A head was named that the model does not have."""

    def __init__(self, head: Head, heads: HeadMap) -> None:
        self.head = head
        self.heads = heads
        stacks = [x.stack for x in heads.layers if x.stack and x.layer == head.layer and head.head < x.heads]
        example = f'. Name the stack too, for example ({head.layer}, {head.head}, "{stacks[0]}")' if stacks else ""
        hint = example if head.stack is None else ""
        super().__init__(f"there is no head {head}: {heads.describe()}{hint}")


class UnknownUnit(BertologyError, LookupError):
    """A neuron or dimension was named that the model does not have, or that cannot be told apart in it."""

    def __init__(self, unit: object, found: str) -> None:
        self.unit = unit
        super().__init__(f"there is no unit {unit}; what was found: {found}")


class NotAUnit(BertologyError, TypeError):
    """A value stood where a neuron or a dimension of a head was expected."""

    def __init__(self, value: object) -> None:
        self.value = value
        super().__init__(
            f"{value!r} is no unit: write Neuron(layer, neuron), or Dimension(layer, head, 'qk' or 'vo', dimension)"
        )


class NotAHead(BertologyError, TypeError):
    """A value stood where a head was expected."""

    def __init__(self, value: object) -> None:
        self.value = value
        super().__init__(
            f"{value!r} is not a head: write (layer, head), both counted from 0, for example (2, 4); "
            "several heads are a list of such pairs, [(2, 4), (5, 9)]"
        )


class InvalidGate(BertologyError, ValueError):
    """A gate outside [0, 1], or gates of the wrong number."""

    def __init__(self, found: object, expected: str) -> None:
        self.found = found
        self.expected = expected
        super().__init__(f"gates are numbers from 0 (masked) to 1 (as trained): expected {expected}, found {found}")


class InvalidScores(BertologyError, ValueError):
    """Head scores that are not one finite number per head."""

    def __init__(self, found: str, expected: str) -> None:
        self.found = found
        self.expected = expected
        super().__init__(f"head scores must be {expected}; found {found}")


class MaskOfAnotherModel(BertologyError, ValueError):
    """A head mask made for a model with other heads."""

    def __init__(self, mask_heads: str, model_heads: str, source: str | None = None) -> None:
        self.mask_heads = mask_heads
        self.model_heads = model_heads
        self.source = source
        where = f" in {source}" if source else ""
        super().__init__(
            f"the head mask{where} is for another model: it was made for {mask_heads}, "
            f"and this model has {model_heads}. Make the mask again for this model."
        )


class InvalidMaskFile(BertologyError, ValueError):
    """A mask file that cannot be read as one."""

    def __init__(self, source: str, problem: str) -> None:
        self.source = source
        self.problem = problem
        super().__init__(
            f"{source} is not a head-mask file: {problem}. Write one with "
            "Path(file).write_text(HeadMask.without(model.heads, [(0, 1)]).to_json())."
        )


class InvalidArgument(BertologyError, ValueError):
    """An argument outside the values it can take."""

    def __init__(self, name: str, found: object, expected: str) -> None:
        self.name = name
        self.found = found
        self.expected = expected
        super().__init__(f"{name}={found!r} is not valid: expected {expected}")


class NoHeadSelected(BertologyError, ValueError):
    """A selection that leaves nothing to judge: a check on it could never fail."""

    def __init__(self, what: str, advice: str) -> None:
        self.what = what
        self.advice = advice
        super().__init__(f"{what}: nothing would be masked and the check could not fail. {advice}")


class NothingToJudge(BertologyError, ValueError):
    """A comparison in which nothing could differ: a check on it could never fail."""

    def __init__(self, what: str, advice: str) -> None:
        self.what = what
        self.advice = advice
        super().__init__(f"{what}: the check could not fail. {advice}")


# -- models ------------------------------------------------------------------------------------------------------


class ModelNotFound(BertologyError, LookupError):
    """A model source that is neither a folder nor to be had from the hub."""

    def __init__(self, source: str, reason: str) -> None:
        self.source = source
        self.reason = reason
        super().__init__(f"cannot load the model {source!r}: {reason}")


class NoWeights(BertologyError, LookupError):
    """A folder with a configuration, but no safetensors weights."""

    def __init__(self, folder: str, found: Sequence[str]) -> None:
        self.folder = folder
        self.found = tuple(found)
        listing = ", ".join(found) if found else "nothing"
        advice = (
            "Only safetensors are read, since pickled weights can run code: load them once where you trust them and "
            "save them again with model.save_pretrained(folder)."
            if any(name.endswith((".bin", ".pt", ".pth", ".ckpt")) for name in found)
            else "Save the model there with model.save_pretrained(folder)."
        )
        super().__init__(f"{folder} holds no model weights (model.safetensors); it holds {listing}. {advice}")


class IncompleteCheckpoint(BertologyError):
    """A checkpoint that does not fill the model: the rest would be random numbers."""

    def __init__(self, source: str, architecture: str, missing: Sequence[str], mismatched: Sequence[str]) -> None:
        self.source = source
        self.architecture = architecture
        self.missing = tuple(missing)
        self.mismatched = tuple(mismatched)
        parts = []
        if missing:
            parts.append(f"it lacks {_some(missing)}")
        if mismatched:
            parts.append(f"it holds other shapes for {_some(mismatched)}")
        super().__init__(
            f"the checkpoint {source!r} does not fill {architecture}: {' and '.join(parts)}. These weights would be "
            "random numbers and every verdict on them meaningless. Load the kind the checkpoint was saved as, or "
            "train and save the missing part first."
        )


class UnknownKind(BertologyError, ValueError):
    """A model kind that is not known, or that cannot be told from the checkpoint."""

    def __init__(self, found: str, kinds: Iterable[str]) -> None:
        self.found = found
        self.kinds = tuple(kinds)
        super().__init__(f"{found}. Give kind= one of: {', '.join(self.kinds)}.")


class CannotSample(BertologyError):
    """Discovery needs inputs to run the model on and cannot make them up."""

    def __init__(self, architecture: str, reason: str) -> None:
        self.architecture = architecture
        self.reason = reason
        super().__init__(
            f"{architecture} cannot be run to find its heads: {reason}. "
            "Give load_model(..., sample={...}), the keyword inputs of one forward pass."
        )


class NoAttentionHeads(BertologyError):
    """A model in which no attention with heads was seen to run."""

    def __init__(self, architecture: str) -> None:
        self.architecture = architecture
        super().__init__(
            f"no attention heads were seen in {architecture}: it ran without a call of transformers' attention "
            "interface, of torch's attention functions, or of a softmax over tokens. It has none, or computes "
            "attention in a way of its own on which no gate could be proven."
        )


class CannotGate(BertologyError):
    """Heads that were found, but that no gate can switch off exactly."""

    def __init__(self, architecture: str, site: str, reason: str) -> None:
        self.architecture = architecture
        self.site = site
        self.reason = reason
        super().__init__(f"the heads of {site} in {architecture} cannot be masked exactly: {reason}")


class CannotPrune(BertologyError):
    """Heads that can be masked and not cut out."""

    def __init__(self, architecture: str, site: str, reason: str) -> None:
        self.architecture = architecture
        self.site = site
        self.reason = reason
        super().__init__(f"the heads of {site} in {architecture} cannot be cut out: {reason}. They can be masked.")


class CutDiffers(CannotPrune):
    """A cut model that is not the masked one."""

    def __init__(self, architecture: str, site: str, difference: str) -> None:
        self.difference = difference
        super().__init__(architecture, site, f"the cut model is not the masked one: {difference}")


class CannotSave(BertologyError):
    """A model that could not be written, or did not come back as it was; what was there before still is."""

    def __init__(self, folder: str, reason: str) -> None:
        self.folder = folder
        self.reason = reason
        super().__init__(f"the model was not saved to {folder!r}: {reason}. What was there before is untouched.")


class InvalidPlan(BertologyError):
    """A pruned checkpoint whose plan cannot be followed."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the plan of a pruned model cannot be followed: {reason}")


class UnknownLayer(BertologyError, LookupError):
    """A layer was named that the model does not have."""

    def __init__(self, layer: object, known: str) -> None:
        self.layer = layer
        self.known = known
        super().__init__(f"there is no layer {layer!r}: the model has {known}")


class CannotDropLayers(BertologyError):
    """Layers that cannot be skipped, or not be left out of a model that transformers builds by itself."""

    def __init__(self, architecture: str, reason: str) -> None:
        self.architecture = architecture
        self.reason = reason
        super().__init__(f"layers of {architecture} cannot be dropped: {reason}")


class SkippedByAnotherThread(BertologyError):
    """A thread ran a model of which another thread skips layers."""

    def __init__(self, architecture: str) -> None:
        self.architecture = architecture
        super().__init__(
            f"another thread skips layers of this {architecture}, which holds only in the thread that entered it. Run "
            "the model there, or give this thread a model of its own (copy.deepcopy(model), before layers are skipped)."
        )


class SelfCheckFailed(BertologyError):
    """The load-time proof that head masks act on this model did not hold."""

    def __init__(self, architecture: str, site: str, problem: str) -> None:
        self.architecture = architecture
        self.site = site
        self.problem = problem
        super().__init__(
            f"head masks do not act as they must on {architecture}, at {site}: {problem}. "
            "No result of this model could be trusted, so it is refused."
        )


class MaskNotApplied(BertologyError):
    """A mask was in force, the model ran, and the mask did nothing."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(f"the head mask had no effect: {problem}")


class BackwardAfterMask(BertologyError):
    """Gradient checkpointing ran layers again after the mask of their forward pass was left."""

    def __init__(self, architecture: str) -> None:
        self.architecture = architecture
        super().__init__(
            f"backward() recomputes layers of this {architecture} (gradient checkpointing), and the mask they ran "
            "under was left before: the gradients would be of another model. Call backward() inside the `with` block."
        )


class CompiledUnderMask(BertologyError):
    """torch.compile was about to compile a model while a mask was in force on it."""

    def __init__(self) -> None:
        super().__init__(
            "a model cannot be compiled while a mask is in force: give load_model the compiled model, which then runs "
            "uncompiled under masks and compiled without"
        )


class CopiedUnderMask(BertologyError):
    """A model was copied while a mask was in force on it."""

    def __init__(self, architecture: str) -> None:
        self.architecture = architecture
        super().__init__(
            f"this {architecture} cannot be copied while a mask is in force: the copy would keep the hooks of a mask "
            "that it knows nothing of. Copy it before `with model.masked(heads):`."
        )


class MaskOfAnotherThread(BertologyError):
    """A thread ran a model that another thread is masking, without saying which mask it wants itself."""

    def __init__(self, architecture: str) -> None:
        self.architecture = architecture
        super().__init__(
            f"another thread masks heads of this {architecture}, and a mask holds only in the thread that entered it. "
            "Enter `with model.masked(heads):` in the thread that runs the model (`model.masked([])` for no mask)."
        )


class WeightsElsewhere(BertologyError):
    """Weights that are not in memory, and not where accelerate keeps what it offloads."""

    def __init__(self, architecture: str, parameter: str) -> None:
        self.architecture = architecture
        self.parameter = parameter
        super().__init__(
            f"{architecture} has no numbers for {parameter} (it is on the meta device), so that its results cannot be "
            "told from another model's. Load its weights."
        )


class WeightsChanged(BertologyError):
    """The weights of a shared model are no longer those that were loaded."""

    def __init__(self, model: str, parameters: Sequence[str]) -> None:
        self.model = model
        self.parameters = tuple(parameters)
        super().__init__(
            f"the weights of {model} were changed: {_some(parameters)}. The model is shared by all tests; change a "
            "copy instead (copy.deepcopy(bertology_model.model)). It is loaded anew for the tests that follow."
        )


class NoTokenizer(BertologyError):
    """Text has to be tokenized and there is no tokenizer."""

    def __init__(self, model: str, reason: str) -> None:
        self.model = model
        self.reason = reason
        super().__init__(f"{model} has no tokenizer ({reason}). Give load_model(..., tokenizer=...).")


# -- tasks -------------------------------------------------------------------------------------------------------


class TaskNotFound(BertologyError, LookupError):
    """A task source that is neither a file, a folder nor to be had from the hub."""

    def __init__(self, source: str, reason: str) -> None:
        self.source = source
        self.reason = reason
        super().__init__(f"cannot load the task {source!r}: {reason}")


class MalformedData(BertologyError, ValueError):
    """A data file that cannot be read as what its name says."""

    def __init__(self, source: str, problem: str) -> None:
        self.source = source
        self.problem = problem
        super().__init__(f"{source}: {problem}")


class MissingColumn(BertologyError, LookupError):
    """A column was asked for, or is needed, that the data does not have."""

    def __init__(self, source: str, wanted: str, columns: Sequence[str], option: str) -> None:
        self.source = source
        self.wanted = wanted
        self.columns = tuple(columns)
        super().__init__(
            f"{source} has no {wanted}; its columns are {', '.join(map(repr, columns))}. "
            f"Name the right one with {option}."
        )


class EmptyTask(BertologyError, ValueError):
    """A task without examples: every check on it would be green."""

    def __init__(self, source: str) -> None:
        self.source = source
        super().__init__(
            f"{source} holds no examples: a check on it could never fail. Check the file, split and columns."
        )


class SingleClass(BertologyError, ValueError):
    """A task in which all labels are the same."""

    def __init__(self, source: str, label: object, count: int) -> None:
        self.source = source
        self.label = label
        self.count = count
        super().__init__(
            f"all {count} labels of {source} are {label!r}: a model that always says so would be perfect, "
            "and no mask could be seen to hurt. Give data with at least two labels."
        )


class LabelMismatch(BertologyError, ValueError):
    """The labels of the task and of the model are not the same."""

    def __init__(self, task: str, task_labels: Sequence[object], model: str, model_labels: Sequence[object]) -> None:
        self.task_labels = tuple(task_labels)
        self.model_labels = tuple(model_labels)
        super().__init__(
            f"the labels do not match: {task} has {_some([repr(x) for x in task_labels])}, and {model} knows "
            f"{_some([repr(x) for x in model_labels])}. Rename the labels of the data, or set the model's "
            "config.id2label and config.label2id to the names the data uses."
        )


class WrongTaskKind(BertologyError, ValueError):
    """A model that cannot do the task."""

    def __init__(self, model: str, kind: str, task: str, needs: str) -> None:
        self.kind = kind
        self.needs = needs
        super().__init__(f"{model} is loaded as {kind!r}, and {task} needs {needs}")


class UnknownMetric(BertologyError, ValueError):
    """A metric that is not known, or does not fit the kind of task."""

    def __init__(self, metric: str, kind: str, known: Iterable[str]) -> None:
        self.metric = metric
        self.known = tuple(known)
        super().__init__(f"the metric {metric!r} is not one for {kind}: choose from {', '.join(self.known)}")


class UndefinedScore(BertologyError, ArithmeticError):
    """A metric or correlation that has no value on this data."""

    def __init__(self, what: str, reason: str) -> None:
        self.what = what
        self.reason = reason
        super().__init__(f"{what} has no value here: {reason}")


# -- running -----------------------------------------------------------------------------------------------------


class NonFinite(BertologyError, ArithmeticError):
    """NaN or infinity where a number was expected."""

    def __init__(self, what: str, where: str) -> None:
        self.what = what
        self.where = where
        super().__init__(
            f"{what} is not a finite number at {where}. Look for broken weights, or an overflow in half precision "
            "(load the model with dtype='float32')."
        )


def _some(items: Sequence[object], limit: int = 8) -> str:
    """The first few of `items`, and how many more there are."""
    shown = ", ".join(str(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"


def describe_heads(heads: Iterable[Head], limit: int = 24) -> str:
    """Heads on one line: `L0H1 L2H4 …`."""
    names = [str(head) for head in heads]
    shown = " ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} … and {len(names) - limit} more"
