"""Addresses of files in object stores and on web servers: `SCHEME://PLACE/NAME/NAME`."""

from __future__ import annotations

import os
import posixpath
import re
from urllib.parse import quote, unquote, urlsplit

from builder.errors import BuildError, brief

SCHEMES = {"s3": "s3", "gs": "remote", "az": "remote", "hf": "hub", "http": "remote", "https": "remote"}
"""What is read, and the extra of this package that brings what reads it; of gs and az: with gcsfs and adlfs."""
WRITTEN = ("s3", "gs", "az")
"""Those that versions are written to."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def is_remote(uri: object) -> bool:
    """Whether a text, of what is a path else, is an address."""
    return isinstance(uri, str) and _SCHEME.match(uri) is not None


def absolute(place: str) -> str:
    """What names a place wherever we run: an absolute path, or an address as it is."""
    return place.rstrip("/") if is_remote(place) else os.path.abspath(place)


def scheme_of(uri: str) -> str:
    """`s3` of `s3://…`."""
    return uri.partition("://")[0].lower()


def checked_address(uri: str) -> str:
    """An address without slashes at its end. Raises BuildError, which quotes no more of it than is no secret, for one
    of a scheme that is not read, without a place, or with what may be a password or a signature in it: addresses are
    written into pools and versions."""
    scheme, _, rest = uri.partition("://")
    scheme = scheme.lower()
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise BuildError(f"{scheme}:// is not read: give a path, or an address that begins with one of {known}")
    place = rest.split("/", 1)[0]
    if "@" in place:
        raise BuildError(
            f"an address of {scheme}:// holds a user or password, which would be written down: leave it out, and put "
            "it where that store's own tools look for it"
        )
    is_web = scheme in ("http", "https")
    if (is_web and (urlsplit(uri).query or "#" in rest)) or "X-Amz-" in rest or "?versionId=" in rest:
        raise BuildError(
            f"the address {scheme}://{brief(place)}/… has a query, which may be a signature, and would be written "
            "down: give one without it"
        )
    if not place.strip() or "\0" in rest or any(part in (".", "..") for part in rest.split("/")):
        raise BuildError(f"{brief(repr(uri))} is no address: write {scheme}://PLACE/NAME, without . or ..")
    if scheme == "hf" and place != "datasets":
        rest = f"datasets/{rest}"
    return f"{scheme}://{rest.rstrip('/')}"


def join(uri: str, name: str) -> str:
    """The address of a relative path below another one; `..` leads up, but not out of the place."""
    scheme, _, rest = uri.partition("://")
    place, _, below = rest.rstrip("/").partition("/")
    name = quote(name) if scheme in ("http", "https") else name
    path = posixpath.normpath(posixpath.join("/", below, name)).lstrip("/")
    return f"{scheme}://{place}/{path}" if path and path != "." else f"{scheme}://{place}"


def parent(uri: str) -> str:
    """The folder that an address lies in."""
    return join(uri, "..")


def name_of(uri: str, folder: str = "") -> str:
    """The path of a file below a folder's address; without a folder, or elsewhere, with its place in front. Of a web
    server's, as people write it."""
    start = f"{folder.rstrip('/')}/"
    name = uri.removeprefix(start) if folder and uri.startswith(start) else uri.partition("://")[2]
    return unquote(name) if scheme_of(uri) in ("http", "https") else name
