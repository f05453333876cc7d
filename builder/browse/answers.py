"""People's corrections of a version in the App, for builder.review.pull to take over."""

from __future__ import annotations

from builder.review.exchange import Returned
from builder.review.objects import check_reviewable, shown_objects
from builder.review.pull import login_name
from builder.store.store import Store
from builder.store.version import Version


def read_app_answers(version: Version, store: Store, author: str | None = None) -> Returned:
    """Read what people did in the App to the objects of a version.

    Args:
        version: the one that was reviewed.
        store: has the database of the App.
        author: who reviewed; None for the login name.

    Returns:
        The images that they touched, with their objects.

    Raises:
        BuildError: the version holds maps, or it was never browsed.
    """
    from builder.browse.app import read_edits

    check_reviewable(version.manifest)
    author = author or login_name()
    edited, hashes = read_edits(store, version, author)
    shown = [object for objects in shown_objects(version, hashes, elsewhere=hashes) for object in objects]
    authors = dict.fromkeys(hashes, author)
    return Returned(edited, hashes, (), shown, authors, touched=hashes, version=version.manifest.id)
