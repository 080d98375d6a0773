"""JSON that a control plane answers, read so that another server's answer is told from it where a field is missing."""

from __future__ import annotations

import json
from typing import Any

from fedafd.domain.process_errors import ControlPlaneError

__all__ = ["AnsweredObject", "read_answer"]

_FEWEST_FIELDS = 2
"""One alone, as `kind` or `name`, is in answers of other programs, too."""


class AnsweredObject(dict[str, Any]):
    """An object of an answer. A field that it does not have raises ControlPlaneError. Made and copied as a dict is."""

    url = "the control plane"
    """Of the control plane that answered."""

    def __missing__(self, name: str) -> Any:
        raise ControlPlaneError(
            f"{self.url}: its answer has no {name!r}; is this a control plane of FedAFD, of this version?"
        )


def read_answer(url: str, text: str | bytes, fields: frozenset[str] = frozenset()) -> AnsweredObject:
    """The object that `text` is, which has two of these fields, or all of fewer; its `items` are objects.

    Not all of them: a control plane of another version has some more or fewer. Raises ControlPlaneError for what no
    control plane answers, such as a page of another server.
    """

    def answered(content: dict[str, Any]) -> AnsweredObject:
        object_of_answer = AnsweredObject(content)
        object_of_answer.url = url
        return object_of_answer

    try:
        content = json.loads(text, object_hook=answered)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, AnsweredObject):
        raise ControlPlaneError(f"{url}: answers something else than JSON; is this a control plane of FedAFD?")
    items = content.get("items", [])
    is_list_of_objects = isinstance(items, list) and all(isinstance(item, AnsweredObject) for item in items)
    if not is_list_of_objects or len(fields & content.keys()) < min(_FEWEST_FIELDS, len(fields)):
        raise ControlPlaneError(
            f"{url}: answers something else than what was asked; is this a control plane of FedAFD?"
        )
    return content
