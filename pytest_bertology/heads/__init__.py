"""Heads, head maps, head masks and head scores: immutable values that know nothing of models or pytest."""

from pytest_bertology.heads.maps import Head, HeadLike, HeadMap, Layer, as_head
from pytest_bertology.heads.masks import HeadMask
from pytest_bertology.heads.scores import HeadScores
from pytest_bertology.heads.units import Dimension, Neuron, Unit, UnitMap

__all__ = [
    "Dimension",
    "Head",
    "HeadLike",
    "HeadMap",
    "HeadMask",
    "HeadScores",
    "Layer",
    "Neuron",
    "Unit",
    "UnitMap",
    "as_head",
]
