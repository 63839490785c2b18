"""Data in: tasks with their texts, labels and metric, from files, the hub or live data sets."""

from pytest_bertology.tasks.loading import load_task
from pytest_bertology.tasks.metrics import METRICS, Metric
from pytest_bertology.tasks.task import Task

__all__ = ["METRICS", "Metric", "Task", "load_task"]
