"""What a photograph is, before its pixels are taken."""

import resource
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import encoded, picture
from PIL import Image

from bench.datasets import decoding
from bench.datasets.decoding import BACKGROUND, FRAMES, REDUCED, SIXTEEN, TRANSPARENT, TURNED, conversions, decode
from bench.errors import DataError


def _turned(image: Image.Image, orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_photographs_stand_upright_whatever_their_tag_says(kind: str, orientation: int) -> None:
    upright = picture(1, (64, 48))
    # Stored as a camera held this way stores it: turning by the tag gives the picture back.
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    stored = upright.transpose(decoding._TURNS[inverse])
    lossless = {"WEBP": {"lossless": True}, "JPEG": {"quality": 98, "subsampling": 0}}.get(kind, {})
    data = encoded(stored, kind, exif=_turned(stored, orientation), **lossless)
    found = decode(data, "x")
    assert found.size == upright.size and found.mode == "RGB"
    assert np.abs(np.asarray(found, int) - np.asarray(upright, int)).max() <= (12 if kind == "JPEG" else 0)
    assert conversions(data) == (TURNED,)
    plain = encoded(upright, kind, exif=_turned(upright, 1), **lossless)
    assert conversions(plain) == () == conversions(encoded(upright, kind, exif=_turned(upright, 9), **lossless))


@pytest.mark.parametrize(("kind", "top"), [("PNG", 65535), ("TIFF", 65535), ("PNG", 30000)])
def test_sixteen_bits_are_scaled_by_their_range(kind: str, top: int) -> None:
    ramp = np.linspace(0, top, 64 * 64).astype(np.uint16).reshape(64, 64)
    data = encoded(Image.fromarray(ramp), kind)
    found = np.asarray(decode(data, "x"))
    assert found.shape == (64, 64, 3) and (found[..., 0] == found[..., 2]).all()
    assert np.abs(found[..., 0].astype(float) - ramp / 257).max() <= 0.51
    assert conversions(data) == (SIXTEEN,)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_sixteen_bits_in_colour_are_said_too_and_lose_nothing_else() -> None:
    pixels = np.asarray(picture(7, (20, 10)))
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in pixels)
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", 20, 10, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    assert conversions(data) == (SIXTEEN,)
    assert np.array_equal(np.asarray(decode(data, "x")), pixels)
    assert conversions(encoded(picture(7))) == ()


def test_pgm_of_twelve_bits_and_numbers_of_no_known_range() -> None:
    values = np.linspace(0, 4095, 64).astype(">u2")
    found = np.asarray(decode(b"P5\n8 8\n4095\n" + values.tobytes(), "x"))[..., 0].ravel()
    assert np.abs(found - np.linspace(0, 255, 64)).max() <= 1
    for array, kind in ((np.full((4, 4), 70000, np.int32), "32-bit"), (np.zeros((4, 4), np.float32), "floating-point")):
        with pytest.raises(DataError, match=rf"^photo.tif: {kind} pixels, whose value range is unknown"):
            decode(encoded(Image.fromarray(array), "TIFF"), "photo.tif")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_what_lies_under_transparent_pixels_does_not_show(mode: str) -> None:
    image = Image.new("RGBA", (16, 16), (255, 0, 255, 0))
    image.paste((10, 200, 30, 255), (4, 4, 12, 12))
    if mode == "RGB":  # one colour stands for nothing
        flat = Image.new("RGB", (16, 16), (255, 0, 255))
        flat.paste((10, 200, 30), (4, 4, 12, 12))
        data = encoded(flat, transparency=(255, 0, 255))
    else:
        data = encoded(image.convert(mode))
    found = np.asarray(decode(data, "x"))
    assert found[0, 0].tolist() == list(BACKGROUND)
    assert found[8, 8].tolist() != list(BACKGROUND)
    assert conversions(data) == (TRANSPARENT,)


def test_half_transparent_pixels_are_mixed_with_the_background() -> None:
    found = np.asarray(decode(encoded(Image.new("RGBA", (4, 4), (255, 255, 255, 128))), "x"))
    assert abs(int(found[0, 0, 0]) - 192) <= 1


def test_of_several_frames_the_first_is_taken_and_said() -> None:
    first, second = picture(1), picture(2)
    data = encoded(first, "TIFF", save_all=True, append_images=[second])
    assert np.array_equal(np.asarray(decode(data, "x")), np.asarray(first))
    assert conversions(data) == (FRAMES,)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_other_colours_become_rgb(mode: str) -> None:
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    found = decode(encoded(picture(3).convert(mode), kind), "x")
    assert found.mode == "RGB" and found.size == (60, 60)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50), r"not a supported image format \(HEIC\?\)"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(50), r"\(HEIC\?\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", r"a Git LFS pointer: .*git lfs pull"),
        (b"\n<!DOCTYPE html><html>", r"\(a web page\)"),
        (b"<svg xmlns='...'/>", r"\(SVG or XML\)"),
        (b"%PDF-1.7 ...", r"\(PDF\?\)"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", r"\(PostScript\)"),
        (b"", "an empty file"),
        (bytes(3000), "all bytes are zero"),
        (b"no image at all", r"not a supported image format; convert it to JPEG or PNG"),
    ],
)
def test_what_is_no_image_is_said_without_addresses(data: bytes, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        decode(data, "Ann_0001.jpg")
    assert str(caught.value).startswith("Ann_0001.jpg: ")
    assert "0x" not in str(caught.value) and "BytesIO" not in str(caught.value)
    assert conversions(data) == ()


@given(st.binary(max_size=80), st.sampled_from(["PNG", "JPEG", "TIFF", "GIF", "PPM", "WEBP"]), st.integers(0, 400))
def test_damage_is_always_a_line_about_the_file(junk: bytes, kind: str, cut: int) -> None:
    whole = encoded(picture(4, (20, 20)), kind)
    data = whole[:cut] + junk
    conversions(data)
    try:
        assert decode(data, "x.jpg").mode == "RGB"
    except DataError as error:
        assert str(error).startswith("x.jpg: ")
        assert " at 0x" not in str(error)


def _header(width: int, height: int) -> bytes:
    """A PNG of that size, in its header: what a bomb looks like."""
    small = bytearray(encoded(Image.new("L", (1, 1))))
    small[16:24] = struct.pack(">II", width, height)
    small[29:33] = struct.pack(">I", zlib.crc32(bytes(small[12:29])))
    return bytes(small)


def test_too_many_pixels_are_refused_by_their_number_before_they_are_decoded() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=r"^big.png: too large \(14000 x 13000\); the limit is 100 megapixels"):
            decode(_header(14000, 13000), "big.png")
        with pytest.raises(DataError, match=r"^big.png: truncated or damaged"):
            decode(_header(9900, 10000), "big.png")
    assert Image.MAX_IMAGE_PIXELS, "whoever else uses Pillow has its limit still"


def test_large_photographs_are_scaled_down_as_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_REDUCED", 10_000)
    large = picture(5, (300, 200))
    for kind in ("JPEG", "PNG"):
        data = encoded(large, kind)
        found = decode(data, "x")
        assert found.width * found.height <= 10_000 and abs(found.width / found.height - 1.5) < 0.05
        assert conversions(data) == (REDUCED,)
        small = np.asarray(large.resize(found.size, Image.Resampling.BOX), float)
        assert np.abs(np.asarray(found, float) - small).mean() < 6


def test_a_photograph_of_ninety_megapixels_fits_into_little_memory() -> None:
    data = encoded(Image.new("L", (9500, 9500), 90), "JPEG")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = decode(data, "x")
    assert found.width * found.height <= 16_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "KiB; whole it is 270 MB"


def test_a_damaged_tag_turns_nothing() -> None:
    image = picture(6)
    data = encoded(image, "JPEG", exif=b"Exif\0\0II*\0" + bytes(range(60)), quality=98)
    assert decode(data, "x").size == image.size


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none.jpg: cannot be read"):
        decoding.read_image(tmp_path / "none.jpg")
