"""What stands in the YAML of a dataset card: features, and licences and sizes as the Hub calls them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from builder.kinds import kind_of
from builder.report.kinds import Feature, report_kind
from builder.store.manifest import Manifest
from builder.words import HIDDEN

LICENCES = frozenset(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0
    cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0
    cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0
    cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl
    gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql
    ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license llama2 gemma unknown other
    """.split()
)
"""Source: docs/hub/repositories-licenses.md of huggingface/hub-docs."""
FAMILIES = {"odbl-1.0": "odbl", "odc-by-1.0": "odc-by", "pddl-1.0": "pddl", "gfdl-1.3": "gfdl"}
"""SPDX identifiers, in lower case, of licences that the Hub knows without a number."""
SIZE = re.compile(r"[n<>\d]+[KMBT](<n<\d+[KMBT])?")
"""What `size_category` makes, which alone has its < as it is."""
SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")


class _Head(yaml.SafeDumper):
    """Texts of others in quotes, where they hold what another reader of the card may take for markup."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        acts = HIDDEN.search(data) or "\n" in data or ("<" in data and not SIZE.fullmatch(data))
        return self.represent_scalar("tag:yaml.org,2002:str", data, style='"' if acts else None)


_Head.add_representer(str, _Head.represent_str)


def head_yaml(head: Mapping[str, Any]) -> str:
    """The head of a card in YAML, without the lines around it. A `<` of a text is written `\x3c`, and what would act
    unseen (builder.words.HIDDEN) as `\u202e`: the same to YAML, and nothing to who shows it as text or HTML."""
    text = yaml.dump(dict(head), Dumper=_Head, sort_keys=False, allow_unicode=True, width=1 << 30)
    lines = (line.replace("<", "\\x3C") if '"' in line else line for line in text.split("\n"))  # each text is in one
    return HIDDEN.sub(lambda match: f"\\u{ord(match[0]):04X}", "\n".join(lines))


def licence_terms(licence: str) -> dict[str, str]:
    """`license` of a card, from an SPDX identifier or whatever somebody wrote: one that the Hub knows, or `other` with
    `license_name`."""
    id = re.sub(r"-(only|or-later)$", "", licence.strip().lower())
    id = FAMILIES.get(id, id)
    if id in LICENCES:
        return {"license": id}
    name = re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-.")
    return {"license": "other", "license_name": name} if name else {"license": "unknown"}


def size_category(samples: int) -> str:
    """`size_categories` of a card: `n<1K`, `1K<n<10K`, …, `n>1T`."""
    above = sum(samples >= 1000 * 10**n for n in range(len(SIZES)))
    if above == 0:
        return f"n<{SIZES[0]}"
    return f"n>{SIZES[-1]}" if above == len(SIZES) else f"{SIZES[above - 1]}<n<{SIZES[above]}"


def features(manifest: Manifest) -> list[Feature]:
    """`dataset_info.features`, so that `datasets` infers nothing from the first samples: empty lists in the first five
    break it, keys and floats it first sees later are lost.

    The image, the label JSON, what the kind has beside it, and what `datasets` adds. With a calibration there is
    `calibrated` after `score`."""
    names: Feature = {"class_label": {"names": {str(n): name for n, name in enumerate(manifest.classes)}}}
    calibrated = manifest.provenance.calibration is not None
    scalars = [("key", "string"), ("name", "string"), ("sha256", "string"), ("width", "int32"), ("height", "int32")]
    fields: list[Feature] = [{"name": n, "dtype": d} for n, d in (*scalars, ("reencoded", "string"))]
    more, member = report_kind(manifest.kind).features(names, len(manifest.classes), calibrated)
    members = [{"name": kind_of(manifest.kind).member, **member}] if member else []
    ends = [{"name": "__key__", "dtype": "string"}, {"name": "__url__", "dtype": "string"}]
    image = {"name": manifest.features[0], "dtype": "image"}
    return [image, {"name": "json", "struct": [*fields, *more]}, *members, *ends]
