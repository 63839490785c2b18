"""Head-pruning, importance and behaviour checks for transformer models, as ordinary pytest suites.

All public names can be imported from here; functions load torch and transformers only when they are first called.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

from pytest_bertology.answering import answering

if TYPE_CHECKING:
    from pytest_bertology.checks.attention import assert_entropy_between, assert_head_attends
    from pytest_bertology.checks.candidates import assert_same_outputs
    from pytest_bertology.checks.claims import assert_claim
    from pytest_bertology.checks.code import assert_cat_score
    from pytest_bertology.checks.code_length import assert_compression
    from pytest_bertology.checks.costs import Sizes, assert_faster, assert_smaller
    from pytest_bertology.checks.erasure import assert_property_unused, assert_property_used
    from pytest_bertology.checks.heads import (
        assert_head_redundant,
        assert_importance_transfers,
        assert_layer_survives_one_head,
        assert_specialised_heads_survive,
    )
    from pytest_bertology.checks.interventions import (
        assert_constant_attention_ok,
        assert_head_follows_pattern,
        assert_pattern_injectable,
        assert_top_k_attention_ok,
    )
    from pytest_bertology.checks.layer_order import assert_layer_order
    from pytest_bertology.checks.layers import assert_layers_droppable
    from pytest_bertology.checks.probe_retention import assert_probe_retained, assert_probe_tracks_loss
    from pytest_bertology.checks.probing import assert_probe_score
    from pytest_bertology.checks.prompting import assert_prompt_score
    from pytest_bertology.checks.pruning_search import assert_prunable, assert_shared_mask
    from pytest_bertology.checks.ranking import assert_heads_in_top, assert_ranking_agrees
    from pytest_bertology.checks.relations import assert_head_tracks
    from pytest_bertology.checks.retention import assert_heads_prunable, assert_metric_retained
    from pytest_bertology.checks.roles import assert_head_role
    from pytest_bertology.checks.similarity import assert_heads_distinct, assert_heads_similar
    from pytest_bertology.checks.structure import assert_prune_equals_mask
    from pytest_bertology.checks.students import StudentDistances, assert_student_follows
    from pytest_bertology.checks.verdicts import CheckFailed, Inconclusive
    from pytest_bertology.checks.weights import assert_only_changed, assert_sparsity, assert_sparsity_preserved
    from pytest_bertology.embedded import load_embedded_model, load_embedded_task
    from pytest_bertology.engine.batching import Batching
    from pytest_bertology.engine.store import ResultStore, using_store
    from pytest_bertology.engine.sweeps import Sweeping
    from pytest_bertology.errors import BertologyError, BertologyWarning
    from pytest_bertology.heads import Dimension, Head, HeadMap, HeadMask, HeadScores, Neuron, UnitMap
    from pytest_bertology.measures.ablation import AblationReport, ablate_heads
    from pytest_bertology.measures.agreement import Agreement
    from pytest_bertology.measures.all_but_one import AllButOneReport, ablate_all_but_one
    from pytest_bertology.measures.amnesic import amnesic_probe
    from pytest_bertology.measures.amnesic_report import AmnesicReport
    from pytest_bertology.measures.attention import AttentionStatistics, attention_statistics
    from pytest_bertology.measures.attention_maps import AttentionMaps
    from pytest_bertology.measures.attention_probe import attention_probe
    from pytest_bertology.measures.cat import CatReport, cat_score
    from pytest_bertology.measures.changed_retention import ChangedRetention
    from pytest_bertology.measures.claims import examine_claim
    from pytest_bertology.measures.claims_catalogue import Claim, claims
    from pytest_bertology.measures.claims_finding import ClaimFinding
    from pytest_bertology.measures.code_length import description_length
    from pytest_bertology.measures.code_length_report import CodeLengthReport
    from pytest_bertology.measures.compression_path import CompressionPath, compression_path
    from pytest_bertology.measures.constant_attention import ConstantCurve, constant_attention, constant_curve
    from pytest_bertology.measures.cost import Cost, cost
    from pytest_bertology.measures.curve import CurvePoint, PruningCurve, pruning_curve
    from pytest_bertology.measures.distances import (
        LayerDistance,
        LayerDistances,
        LogitDistance,
        attention_distance,
        hidden_state_distance,
        logit_distance,
    )
    from pytest_bertology.measures.divergence import HeadDivergence, head_divergence
    from pytest_bertology.measures.edge_probing import edge_probe
    from pytest_bertology.measures.edge_report import EdgeProbeReport
    from pytest_bertology.measures.erasure import erase
    from pytest_bertology.measures.erasure_report import Erasure
    from pytest_bertology.measures.evaluation import Outcomes, evaluate
    from pytest_bertology.measures.head_clusters import HeadClusters
    from pytest_bertology.measures.head_embedding import HeadEmbedding
    from pytest_bertology.measures.hidden_states import HiddenStates
    from pytest_bertology.measures.importance import head_importance
    from pytest_bertology.measures.layer_choice import choose_layers
    from pytest_bertology.measures.layer_contribution import layer_similarity
    from pytest_bertology.measures.layer_retention import LayerRetention
    from pytest_bertology.measures.noise_floor import noise_floor, refusing_below_noise
    from pytest_bertology.measures.noise_report import NoiseFloor, NoiseSetting
    from pytest_bertology.measures.own_methods import using_importance_method
    from pytest_bertology.measures.paired import Comparison, compare
    from pytest_bertology.measures.pattern_mass import pattern_mass
    from pytest_bertology.measures.probe_report import AttentionProbe
    from pytest_bertology.measures.probe_retention import ProbeRetention, probe_retention
    from pytest_bertology.measures.probing import probe
    from pytest_bertology.measures.probing_report import LayerProbe, ProbeReport
    from pytest_bertology.measures.prompt_report import PromptReport
    from pytest_bertology.measures.prompting import prompt_probe
    from pytest_bertology.measures.relation_report import RelationReport, TrackedRelation
    from pytest_bertology.measures.relations import head_relations
    from pytest_bertology.measures.retention import Retention
    from pytest_bertology.measures.role_report import RoleReport
    from pytest_bertology.measures.roles import head_roles
    from pytest_bertology.measures.sparsity import Sparsity, ZeroPattern
    from pytest_bertology.measures.structural import PrunedModel
    from pytest_bertology.measures.sweeping import Sweep, evaluate_masks
    from pytest_bertology.measures.timing import Timing, timing
    from pytest_bertology.measures.weights import WeightChanges
    from pytest_bertology.models import ModelUnderTest, load_model
    from pytest_bertology.models.blocks import Blocks, blocks
    from pytest_bertology.models.constants import ConstantAttention
    from pytest_bertology.power import smallest_detectable_drop, smallest_tolerance
    from pytest_bertology.report.saving import save_figure
    from pytest_bertology.search.finding import find_prunable_heads
    from pytest_bertology.search.result import PruningResult, TaskScores, TraceStep
    from pytest_bertology.tasks import Task, load_task
    from pytest_bertology.tasks.conllu import Sentence, read_conllu

_HOMES = {
    "BertologyError": "errors",
    "BertologyWarning": "errors",
    "AblationReport": "measures.ablation",
    "Agreement": "measures.agreement",
    "AllButOneReport": "measures.all_but_one",
    "AmnesicReport": "measures.amnesic_report",
    "AttentionMaps": "measures.attention_maps",
    "AttentionProbe": "measures.probe_report",
    "AttentionStatistics": "measures.attention",
    "Batching": "engine.batching",
    "Blocks": "models.blocks",
    "CatReport": "measures.cat",
    "ChangedRetention": "measures.changed_retention",
    "CheckFailed": "checks.verdicts",
    "Claim": "measures.claims_catalogue",
    "ClaimFinding": "measures.claims_finding",
    "CodeLengthReport": "measures.code_length_report",
    "Comparison": "measures.paired",
    "CompressionPath": "measures.compression_path",
    "ConstantAttention": "models.constants",
    "ConstantCurve": "measures.constant_attention",
    "Cost": "measures.cost",
    "CurvePoint": "measures.curve",
    "Dimension": "heads",
    "EdgeProbeReport": "measures.edge_report",
    "Erasure": "measures.erasure_report",
    "Head": "heads",
    "HeadClusters": "measures.head_clusters",
    "HeadDivergence": "measures.divergence",
    "HeadEmbedding": "measures.head_embedding",
    "HeadMap": "heads",
    "HeadMask": "heads",
    "HeadScores": "heads",
    "HiddenStates": "measures.hidden_states",
    "Inconclusive": "checks.verdicts",
    "LayerDistance": "measures.distances",
    "LayerDistances": "measures.distances",
    "LayerProbe": "measures.probing_report",
    "LayerRetention": "measures.layer_retention",
    "LogitDistance": "measures.distances",
    "ModelUnderTest": "models",
    "Neuron": "heads",
    "NoiseFloor": "measures.noise_report",
    "NoiseSetting": "measures.noise_report",
    "Outcomes": "measures.evaluation",
    "ProbeReport": "measures.probing_report",
    "ProbeRetention": "measures.probe_retention",
    "PromptReport": "measures.prompt_report",
    "PrunedModel": "measures.structural",
    "PruningCurve": "measures.curve",
    "PruningResult": "search.result",
    "RelationReport": "measures.relation_report",
    "ResultStore": "engine.store",
    "Retention": "measures.retention",
    "RoleReport": "measures.role_report",
    "Sentence": "tasks.conllu",
    "Sizes": "checks.costs",
    "Sparsity": "measures.sparsity",
    "StudentDistances": "checks.students",
    "Sweep": "measures.sweeping",
    "Sweeping": "engine.sweeps",
    "Task": "tasks",
    "TaskScores": "search.result",
    "Timing": "measures.timing",
    "TraceStep": "search.result",
    "TrackedRelation": "measures.relation_report",
    "UnitMap": "heads",
    "WeightChanges": "measures.weights",
    "ZeroPattern": "measures.sparsity",
    "ablate_all_but_one": "measures.all_but_one",
    "ablate_heads": "measures.ablation",
    "amnesic_probe": "measures.amnesic",
    "assert_cat_score": "checks.code",
    "assert_claim": "checks.claims",
    "assert_compression": "checks.code_length",
    "assert_constant_attention_ok": "checks.interventions",
    "assert_entropy_between": "checks.attention",
    "assert_faster": "checks.costs",
    "assert_head_attends": "checks.attention",
    "assert_head_follows_pattern": "checks.interventions",
    "assert_head_redundant": "checks.heads",
    "assert_head_role": "checks.roles",
    "assert_head_tracks": "checks.relations",
    "assert_heads_distinct": "checks.similarity",
    "assert_heads_in_top": "checks.ranking",
    "assert_heads_prunable": "checks.retention",
    "assert_heads_similar": "checks.similarity",
    "assert_importance_transfers": "checks.heads",
    "assert_layer_order": "checks.layer_order",
    "assert_layer_survives_one_head": "checks.heads",
    "assert_layers_droppable": "checks.layers",
    "assert_metric_retained": "checks.retention",
    "assert_only_changed": "checks.weights",
    "assert_pattern_injectable": "checks.interventions",
    "assert_probe_retained": "checks.probe_retention",
    "assert_probe_score": "checks.probing",
    "assert_probe_tracks_loss": "checks.probe_retention",
    "assert_prompt_score": "checks.prompting",
    "assert_property_unused": "checks.erasure",
    "assert_property_used": "checks.erasure",
    "assert_prunable": "checks.pruning_search",
    "assert_prune_equals_mask": "checks.structure",
    "assert_ranking_agrees": "checks.ranking",
    "assert_same_outputs": "checks.candidates",
    "assert_shared_mask": "checks.pruning_search",
    "assert_smaller": "checks.costs",
    "assert_sparsity": "checks.weights",
    "assert_sparsity_preserved": "checks.weights",
    "assert_specialised_heads_survive": "checks.heads",
    "assert_student_follows": "checks.students",
    "assert_top_k_attention_ok": "checks.interventions",
    "attention_distance": "measures.distances",
    "attention_probe": "measures.attention_probe",
    "attention_statistics": "measures.attention",
    "blocks": "models.blocks",
    "cat_score": "measures.cat",
    "choose_layers": "measures.layer_choice",
    "claims": "measures.claims_catalogue",
    "compare": "measures.paired",
    "compression_path": "measures.compression_path",
    "constant_attention": "measures.constant_attention",
    "constant_curve": "measures.constant_attention",
    "cost": "measures.cost",
    "description_length": "measures.code_length",
    "edge_probe": "measures.edge_probing",
    "erase": "measures.erasure",
    "evaluate": "measures.evaluation",
    "evaluate_masks": "measures.sweeping",
    "examine_claim": "measures.claims",
    "find_prunable_heads": "search.finding",
    "head_divergence": "measures.divergence",
    "head_importance": "measures.importance",
    "head_relations": "measures.relations",
    "head_roles": "measures.roles",
    "hidden_state_distance": "measures.distances",
    "layer_similarity": "measures.layer_contribution",
    "load_embedded_model": "embedded",
    "load_embedded_task": "embedded",
    "load_model": "models",
    "load_task": "tasks",
    "logit_distance": "measures.distances",
    "noise_floor": "measures.noise_floor",
    "pattern_mass": "measures.pattern_mass",
    "probe": "measures.probing",
    "probe_retention": "measures.probe_retention",
    "prompt_probe": "measures.prompting",
    "pruning_curve": "measures.curve",
    "read_conllu": "tasks.conllu",
    "refusing_below_noise": "measures.noise_floor",
    "save_figure": "report.saving",
    "smallest_detectable_drop": "power",
    "smallest_tolerance": "power",
    "timing": "measures.timing",
    "using_importance_method": "measures.own_methods",
    "using_store": "engine.store",
}

__all__ = [
    "AblationReport",
    "Agreement",
    "AllButOneReport",
    "AmnesicReport",
    "AttentionMaps",
    "AttentionProbe",
    "AttentionStatistics",
    "Batching",
    "BertologyError",
    "BertologyWarning",
    "Blocks",
    "CatReport",
    "ChangedRetention",
    "CheckFailed",
    "Claim",
    "ClaimFinding",
    "CodeLengthReport",
    "Comparison",
    "CompressionPath",
    "ConstantAttention",
    "ConstantCurve",
    "Cost",
    "CurvePoint",
    "Dimension",
    "EdgeProbeReport",
    "Erasure",
    "Head",
    "HeadClusters",
    "HeadDivergence",
    "HeadEmbedding",
    "HeadMap",
    "HeadMask",
    "HeadScores",
    "HiddenStates",
    "Inconclusive",
    "LayerDistance",
    "LayerDistances",
    "LayerProbe",
    "LayerRetention",
    "LogitDistance",
    "ModelUnderTest",
    "Neuron",
    "NoiseFloor",
    "NoiseSetting",
    "Outcomes",
    "ProbeReport",
    "ProbeRetention",
    "PromptReport",
    "PrunedModel",
    "PruningCurve",
    "PruningResult",
    "RelationReport",
    "ResultStore",
    "Retention",
    "RoleReport",
    "Sentence",
    "Sizes",
    "Sparsity",
    "StudentDistances",
    "Sweep",
    "Sweeping",
    "Task",
    "TaskScores",
    "Timing",
    "TraceStep",
    "TrackedRelation",
    "UnitMap",
    "WeightChanges",
    "ZeroPattern",
    "ablate_all_but_one",
    "ablate_heads",
    "amnesic_probe",
    "assert_cat_score",
    "assert_claim",
    "assert_compression",
    "assert_constant_attention_ok",
    "assert_entropy_between",
    "assert_faster",
    "assert_head_attends",
    "assert_head_follows_pattern",
    "assert_head_redundant",
    "assert_head_role",
    "assert_head_tracks",
    "assert_heads_distinct",
    "assert_heads_in_top",
    "assert_heads_prunable",
    "assert_heads_similar",
    "assert_importance_transfers",
    "assert_layer_order",
    "assert_layer_survives_one_head",
    "assert_layers_droppable",
    "assert_metric_retained",
    "assert_only_changed",
    "assert_pattern_injectable",
    "assert_probe_retained",
    "assert_probe_score",
    "assert_probe_tracks_loss",
    "assert_prompt_score",
    "assert_property_unused",
    "assert_property_used",
    "assert_prunable",
    "assert_prune_equals_mask",
    "assert_ranking_agrees",
    "assert_same_outputs",
    "assert_shared_mask",
    "assert_smaller",
    "assert_sparsity",
    "assert_sparsity_preserved",
    "assert_specialised_heads_survive",
    "assert_student_follows",
    "assert_top_k_attention_ok",
    "attention_distance",
    "attention_probe",
    "attention_statistics",
    "blocks",
    "cat_score",
    "choose_layers",
    "claims",
    "compare",
    "compression_path",
    "constant_attention",
    "constant_curve",
    "cost",
    "description_length",
    "edge_probe",
    "erase",
    "evaluate",
    "evaluate_masks",
    "examine_claim",
    "find_prunable_heads",
    "head_divergence",
    "head_importance",
    "head_relations",
    "head_roles",
    "hidden_state_distance",
    "layer_similarity",
    "load_embedded_model",
    "load_embedded_task",
    "load_model",
    "load_task",
    "logit_distance",
    "noise_floor",
    "pattern_mass",
    "probe",
    "probe_retention",
    "prompt_probe",
    "pruning_curve",
    "read_conllu",
    "refusing_below_noise",
    "save_figure",
    "smallest_detectable_drop",
    "smallest_tolerance",
    "timing",
    "using_importance_method",
    "using_store",
]


_FUNCTIONS = frozenset(name for name in _HOMES if name[0].islower())


class _Deferred:
    """A function that is imported when it is first called, looked at or asked for its documentation.

    A test module that imports checks at its top can then be collected without loading torch.
    """

    def __init__(self, name: str) -> None:
        self.__name__ = self.__qualname__ = name
        self.__module__ = __name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if answering:
            return answering[-1](self.__name__, lambda: self._function, args, kwargs)
        return self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<function {__name__}.{self.__name__}>"

    @property
    def _function(self) -> Any:
        return getattr(import_module(f"{__name__}.{_HOMES[self.__name__]}"), self.__name__)

    @property
    def __signature__(self) -> Any:
        from inspect import signature

        return signature(self._function)

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self._function.__doc__  # type: ignore[no-any-return]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _FUNCTIONS:
        value: Any = _Deferred(name)
    else:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
