"""Checkpoints, models, and masks and cuts of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pytest_bertology.errors.base import BertologyError, some


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
            parts.append(f"it lacks {some(missing)}")
        if mismatched:
            parts.append(f"it holds other shapes for {some(mismatched)}")
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


class CannotMeasure(BertologyError):
    """A model of which a measure cannot be taken exactly."""

    def __init__(self, what: str, architecture: str, reason: str) -> None:
        self.what = what
        self.architecture = architecture
        self.reason = reason
        super().__init__(f"{what} cannot be measured on this {architecture}: {reason}.")


class CannotGate(BertologyError):
    """Heads that were found, but that no gate can switch off exactly."""

    def __init__(self, architecture: str, site: str, reason: str) -> None:
        self.architecture = architecture
        self.site = site
        self.reason = reason
        super().__init__(f"the heads of {site} in {architecture} cannot be masked exactly: {reason}")


class CannotPrune(BertologyError):
    """Heads that can be masked and not cut out."""

    def __init__(self, architecture: str, site: str, reason: str, advice: str = "They can be masked.") -> None:
        self.architecture = architecture
        self.site = site
        self.reason = reason
        super().__init__(f"the heads of {site} in {architecture} cannot be cut out: {reason}. {advice}")


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
        super().__init__(f"there is no layer {layer!r} (layers are counted from 0): the model has {known}")


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


class CannotChangeAttention(BertologyError):
    """Attention weights that were to be changed, and are not seen, or are of something else than the tokens."""

    def __init__(self, architecture: str, reason: str) -> None:
        self.architecture = architecture
        self.reason = reason
        super().__init__(f"the attention of this {architecture} cannot be changed: {reason}.")


class AttentionNotChanged(BertologyError):
    """A change of attention was in force, the model ran, and the change was never asked for."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(f"the change of attention had no effect: {problem}")


class CannotErase(BertologyError):
    """Hidden states that are not found where they could be projected, or are read from elsewhere."""

    def __init__(self, architecture: str, reason: str) -> None:
        self.architecture = architecture
        self.reason = reason
        super().__init__(f"nothing can be erased from the hidden states of this {architecture}: {reason}.")


class ErasureNotApplied(BertologyError):
    """Something was to be erased, the model ran, and nothing was."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(f"the erasure had no effect: {problem}")


class ErasedByAnotherThread(BertologyError):
    """A thread ran a model of which another thread erases something."""

    def __init__(self, architecture: str) -> None:
        self.architecture = architecture
        super().__init__(
            f"another thread erases something of this {architecture}, which holds only in the thread that entered it. "
            "Run the model there, or give this thread a model of its own (copy.deepcopy(model), before)."
        )


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
            "that it knows nothing of. Copy it before `with model.masked(heads):`, `model.skipping(layers)` or "
            "`model.erasing(erasure)`, or in a test without `heads_masked`."
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
            f"the weights of {model} were changed: {some(parameters)}. The model is shared by all tests; change a "
            "copy instead (copy.deepcopy(bertology_model.model)). It is loaded anew for the tests that follow."
        )


class NoTokenizer(BertologyError):
    """Text has to be tokenized and there is no tokenizer."""

    def __init__(self, model: str, reason: str) -> None:
        self.model = model
        self.reason = reason
        super().__init__(f"{model} has no tokenizer ({reason}). Give load_model(..., tokenizer=...).")
