"""Annotations that people made in another tool, read with the right reader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from builder.review.exchange import AnnotationError, Answer
from teachers.files import open_regular
from teachers.text import codec_of

CHUNK = 4096
"""Bytes in which the kind of a file shows."""


def read_annotations(path: Path, author: str) -> Iterator[Answer]:
    """The images that came back in a file: Label Studio's JSON export, or CVAT's XML or ZIP, as its first bytes say.
    author: who it was, as they want to be called. Raises AnnotationError if it is neither, or not as it should be."""
    from builder.review.cvat import read_cvat
    from builder.review.label_studio import read_label_studio

    try:
        with open_regular(path) as file:
            head = file.read(CHUNK)
    except OSError as error:
        raise AnnotationError(f"{path} cannot be read ({error.strerror}): give the export of the tool") from None
    begins = head.decode(codec_of(head), "ignore").lstrip()[:1]
    if head.startswith(b"PK") or begins == "<":
        return read_cvat(path, author)
    if begins in ("[", "{"):
        return read_label_studio(path, author)
    raise AnnotationError(
        f"{path} is neither JSON nor XML nor a ZIP: give Label Studio's JSON export, or CVAT's of CVAT for images 1.1"
    )
