"""People's corrections of a version in the App, for builder.review.pull to take over."""

from __future__ import annotations

from builder.errors import brief
from builder.review.exchange import AnnotationError, Returned
from builder.review.objects import check_reviewable, shown_objects
from builder.store.store import Store
from builder.store.version import Version
from builder.versions.media import images_of


def read_app_answers(version: Version, store: Store, author: str | None = None) -> Returned:
    """Read what people did in the App to the objects of a version.

    Args:
        version: the one that was reviewed.
        store: has the database of the App.
        author: who reviewed, as they want to be called wherever the version goes; None for nobody's name.

    Returns:
        The images that they touched, with their objects; those with a class that the version does not have are
        `refused`.

    Raises:
        BuildError: the version holds maps, or it was never browsed.
    """
    from builder.browse.app import read_edits

    check_reviewable(version.manifest)
    author = author or ""
    edited, hashes = read_edits(store, version, author)
    classes = version.manifest.classes
    unknown = {edit.key: edit.label for edit in edited if edit.verdict != "reject" and edit.label not in classes}
    names = {image.key: image.name for image in images_of(version) if image.key in unknown} if unknown else {}
    refused = {
        names.get(key, key): f"it has the class {brief(repr(label))} in the App, which {version.ref} does not know "
        f"({brief(', '.join(classes))}): correct it there and pull again"
        for key, label in unknown.items()
    }
    if refused and unknown.keys() >= hashes.keys():
        name, why = next(iter(refused.items()))
        raise AnnotationError(f"image {name}: {why}")
    edited = [edit for edit in edited if edit.key not in unknown]
    hashes = {key: sha256 for key, sha256 in hashes.items() if key not in unknown}
    shown = [object for objects in shown_objects(version, hashes, elsewhere=hashes) for object in objects]
    authors = dict.fromkeys(hashes, author)
    return Returned(edited, hashes, (), shown, authors, hashes, version.manifest.id, refused)
