"""How large an image file may be, so that none fills the memory: asked of the file and of its header, before anything
is decoded. A file of 20 kB can say that it has 4 billion pixels."""

from __future__ import annotations

MAX_PIXELS = 89_478_485
"""Pixels of an image above which it is not read (`pool.max_pixels` says another number): PIL.Image.MAX_IMAGE_PIXELS,
from which on Pillow warns. Decoding takes up to 16 bytes a pixel for a moment (WebP): 1.4 GB at most."""
MAX_SIDE = 65_500
"""Pixels of a side: libjpeg's own limit, so that every image of a pool can be written as a JPEG."""
MAX_BYTES = 1 << 30
"""Bytes of an image file: more than MAX_PIXELS uncompressed pixels of four 16-bit channels."""
LARGE_PIXELS = 1 << 24
"""Pixels from which on images that need several copies (all but JPEGs) are decoded one at a time in a process."""
WAITING_PIXELS = 1 << 27
"""Pixels of decoded images that may wait for a model: 400 MB. One image may be more."""
BATCH_PIXELS = 1 << 28
"""Pixels of a batch's images: 800 MB. Larger images come in smaller batches, down to one image."""
