"""Metadata go, pixels and colours stay, and places are found where they are told."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin
from PIL.ExifTags import IFD, Base

from builder.scan.metadata import MetadataError, has_location, without_metadata

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><exif:GPSLatitude>48,8N</exif:GPSLatitude></x:xmpmeta>'
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SECRETS = (b"SERIAL-12345", b"Anna's phone", b"GPSLatitude", b"a comment")
FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": ("jpg", {"quality": 90, "comment": b"a comment", "xmp": XMP}),
    "progressive JPEG": ("jpg", {"quality": 90, "progressive": True, "restart_marker_rows": 1}),
    "MPO": ("jpg", {"save_all": True, "append_images": [Image.new("RGB", (8, 8))]}),
    "CMYK JPEG": ("jpg", {"quality": 90}),
    "PNG": ("png", {}),
    "lossy WEBP": ("webp", {"quality": 80, "xmp": XMP}),
    "lossless WEBP": ("webp", {"lossless": True, "xmp": XMP}),
}


def written(kind: str) -> bytes:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize((61, 47))
    format, options = kind.split()[-1], dict(FILES[kind][1])
    if kind.startswith("CMYK"):
        image = image.convert("CMYK")
    if format == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_text("Comment", "a comment")
        options["pnginfo"] = text
    exif = Image.Exif()
    exif[Base.CameraOwnerName], exif[Base.BodySerialNumber] = "Anna's phone", "SERIAL-12345"
    exif.get_ifd(IFD.GPSInfo).update({1: "N", 2: (48.0, 8.0, 0.0), 3: "E", 4: (11.0, 34.0, 0.0)})
    out = io.BytesIO()
    image.save(out, format, exif=exif, icc_profile=ICC, **options)
    return out.getvalue()


@pytest.mark.parametrize("kind", FILES)
def test_metadata_go_and_pixels_stay(kind: str) -> None:
    data = written(kind)
    assert has_location(data) and any(secret in data for secret in SECRETS)
    bare = without_metadata(data, FILES[kind][0])
    assert not has_location(bare) and not any(secret in bare for secret in SECRETS)
    with Image.open(io.BytesIO(data)) as before, Image.open(io.BytesIO(bare)) as after:
        assert (before.mode, before.size) == (after.mode, after.size)
        assert np.array_equal(np.asarray(before), np.asarray(after))
        assert after.info.get("icc_profile") == ICC
        assert not after.getexif() and not after.getexif().get_ifd(IFD.GPSInfo)
    assert without_metadata(bare, FILES[kind][0]) == bare


@pytest.mark.parametrize("kind", FILES)
def test_a_cut_file_is_refused(kind: str) -> None:
    data = written(kind)
    with pytest.raises(MetadataError):
        without_metadata(data[:40], FILES[kind][0])
    with pytest.raises(MetadataError):
        without_metadata(b"GIF89a" + data, FILES[kind][0])


def test_formats_that_would_have_to_be_encoded_again_are_refused() -> None:
    with pytest.raises(MetadataError, match="metadata of tif cannot be taken out"):
        without_metadata(b"II*\0", "tif")


@pytest.mark.parametrize("compressed", [False, True])
def test_a_place_is_found_in_the_texts_of_a_png(compressed: bool) -> None:
    text, out = PngImagePlugin.PngInfo(), io.BytesIO()
    text.add_itxt("XML:com.adobe.xmp", XMP.decode(), zip=compressed)
    Image.new("RGB", (8, 8)).save(out, "PNG", pnginfo=text)
    assert has_location(out.getvalue())
    assert not has_location(without_metadata(out.getvalue(), "png"))


def test_a_serial_number_is_no_place() -> None:
    exif, out = Image.Exif(), io.BytesIO()
    exif[Base.BodySerialNumber] = "SERIAL-12345"
    Image.new("RGB", (8, 8)).save(out, "JPEG", exif=exif)
    assert not has_location(out.getvalue())
    assert not has_location(b"Exif\0\0 and no image") and not has_location(b"")
