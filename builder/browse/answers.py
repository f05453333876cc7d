"""What people said of a version in the App, for builder.review.pull to take over."""

from __future__ import annotations

from builder.review.exchange import Returned
from builder.review.objects import check_reviewable, shown_objects
from builder.review.pull import login_name
from builder.store.store import Store


def read_app_answers(store: Store, version: str, author: str | None = None) -> Returned:
    """Read what people did in the App to the objects of a version.

    Args:
        store: holds the version.
        version: the one that was reviewed: NAME, NAME@v3, NAME@TAG or a folder.
        author: who reviewed; None for the login name.

    Returns:
        The images that they touched, with their objects.

    Raises:
        BuildError: there is no such version, or it was never browsed.
    """
    from builder.browse.app import read_edits

    reviewed = store.version(version)
    check_reviewable(reviewed.manifest)
    author = author or login_name()
    edited, hashes = read_edits(store, reviewed, author)
    shown = [one for of_image in shown_objects(reviewed, hashes, elsewhere=hashes) for one in of_image]
    return Returned(edited, hashes, (), shown, dict.fromkeys(hashes, author), touched=hashes)
