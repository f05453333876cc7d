"""The rows of docs/benchmarks.md, in its order."""

from __future__ import annotations

import browse
import checking
import duplicates
import fusion
import labelling
import loading
import matching
import reading
import recut
import scale
import selection
import shards
import sharing

ROWS = (
    *(shards.ROW, recut.ROW, sharing.ROW, reading.ROW, labelling.ROW, loading.ROW),
    *(selection.ROW, matching.ROW, fusion.ROW, duplicates.ROW),
    *(checking.ROW, browse.ROW, scale.ROW),
)
