"""What clients learn: the seam for tasks, and the tasks that are built in.

A task of another package is an entry point of the group `fedafd.tasks`: docs/tasks.md.
"""

from fedafd.learning.tasks.base import LabelTask, Metric, PairTask, Task
from fedafd.learning.tasks.classification import Classification
from fedafd.learning.tasks.lookup import find_task, task_names, usual_task_of
from fedafd.learning.tasks.multi_label import MultiLabel
from fedafd.learning.tasks.retrieval import Retrieval

__all__ = [
    "Classification",
    "LabelTask",
    "Metric",
    "MultiLabel",
    "PairTask",
    "Retrieval",
    "Task",
    "find_task",
    "task_names",
    "usual_task_of",
]
