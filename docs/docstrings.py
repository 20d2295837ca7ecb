"""What mkdocstrings is told about our docstrings, which it would otherwise show less well."""

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^Example(?=::?$)", re.MULTILINE)
# Each of these begins a line in the source; Markdown would run them together.
_PROMISE = re.compile(r"\n(?=\*\*(?:Ranks|Blocks|On failure)\*\*)")


class Docstrings(griffe.Extension):
    """Makes doctests examples of code, and each promise on ranks and waiting a paragraph."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of an object that has been read."""
        if obj.docstring is not None:
            text = _EXAMPLE.sub("Examples", obj.docstring.value)
            obj.docstring.value = _PROMISE.sub("\n\n", text)
