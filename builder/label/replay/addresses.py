"""What the address of an image in Label Studio says of the image's name."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import unquote, unquote_plus, urlsplit

from builder.store.names import canonical

LOCAL = "/data/local-files/?d="
UPLOADED = re.compile(r"(?:^|/)data/(?P<path>upload/(?P<below>(?:\d+/)?(?P<file>[0-9a-f]{8}-(?P<name>[^/]+))))$")
"""The address of an uploaded image: Label Studio puts eight digits before its name."""
STORAGES = ("s3", "gs", "azure-blob")
"""Schemes of addresses that are written unquoted."""


@dataclass(frozen=True)
class Address:
    """The name that an address stands for: a path, NFC.

    others: names that it may stand for, where whoever wrote it did not quote it, or did. upload: of an image that was
    uploaded, its name as Label Studio changed it (see `uploaded`).
    """

    name: str
    others: tuple[str, ...] = ()
    upload: str = ""


def read_address(address: str) -> Address:
    """Of `/data/upload/3/1a2b3c4d-NAME`, `/data/local-files/?d=PATH`, `s3://BUCKET/KEY`, an URL or a path."""
    scheme, _, rest = address.partition("://")
    if scheme in STORAGES:
        return _address([rest.partition("/")[2]])
    if LOCAL in address:
        path = address.partition(LOCAL)[2]
        return _address([unquote(path), path, unquote_plus(path), unquote(path.partition("&")[0])])
    parts = urlsplit(address)
    if match := UPLOADED.search(unquote(parts.path)):
        return replace(_address([match["file"], match["below"], match["path"]]), upload=match["name"])
    if parts.scheme and parts.netloc:
        return _address([unquote(parts.path), rest.partition("/")[2], parts.path])
    return _address([address, unquote(parts.path)])


def uploaded(name: str) -> set[str]:
    """What Label Studio makes of the name of an image that is uploaded, in either Unicode form: no folders, blanks
    become `_`, and all but letters, digits, `-`, `_` and `.` goes (Django's get_valid_filename)."""
    forms = (unicodedata.normalize(form, os.path.basename(name)) for form in ("NFC", "NFD"))
    return {re.sub(r"[^-\w.]", "", form.strip().replace(" ", "_")) for form in forms}


def _address(readings: Sequence[str]) -> Address:
    names = dict.fromkeys(canonical(name.lstrip("/")) for name in readings)
    return Address(next(iter(names)), tuple(names)[1:])
