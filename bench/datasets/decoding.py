"""The only module that decodes image files: it returns upright RGB images with 8 bits per channel and bounded size."""

from __future__ import annotations

import io
import math
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from bench.errors import DataError

BACKGROUND = (128, 128, 128)  #: the background behind transparent pixels
LARGEST = 100_000_000  #: pixels; a larger image is rejected before it is decoded
_REDUCED = 16_000_000  #: pixels above which an image is scaled down while it is read; face crops do not need more

# Photograph formats, by Pillow's names. Pillow also knows documents, stubs and drawings, some of which start other
# programs; they are excluded. The content determines a file's format, not its suffix.
_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "TIFF", "PPM", "GIF", "JPEG2000", "AVIF")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  #: indexed by the value of EXIF's Orientation

# The first bytes of other file types that are found under image names.
_OTHERS = (
    (re.compile(rb"....ftyp(heic|heix|hevc|hevx|heim|heis|mif1|msf1)", re.DOTALL), "HEIC"),
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer: fetch the file itself with git lfs pull"),
    (re.compile(rb"\s*(<!doctype html|<html)", re.IGNORECASE), "a web page"),
    (re.compile(rb"\s*(<\?xml|<svg)", re.IGNORECASE), "SVG or XML"),
    (re.compile(rb"%PDF"), "PDF"),
    (re.compile(rb"%!PS"), "PostScript"),
    (re.compile(rb"8BPS"), "Photoshop"),
    (re.compile(rb"PK\x03\x04"), "a ZIP archive"),
    (re.compile(rb"\x1f\x8b"), "a gzip archive"),
    (re.compile(rb"\x00\x05\x16\x07"), "macOS metadata of another file"),
    (re.compile(rb"....ftyp|\x1aE\xdf\xa3", re.DOTALL), "a video, or an image format of a phone"),
    (re.compile(rb"\xff\x0a|\x00\x00\x00\x0cJXL "), "JPEG XL"),
)

TURNED = "turned upright, as their EXIF orientation says"
SIXTEEN = "scaled from 16 bits to 8"
TRANSPARENT = f"with an alpha channel, laid over grey {BACKGROUND[0]}"
FRAMES = "with several frames: the first was used"
REDUCED = f"scaled down while reading: more than {_REDUCED // 10**6} megapixels"


@cache
def _formats() -> tuple[str, ...]:
    """The formats that this build of Pillow supports."""
    Image.init()
    return tuple(kind for kind in _FORMATS if kind in Image.OPEN)


@cache
def suffixes() -> frozenset[str]:
    """The file suffixes that `decode` supports, in lower case, with their dot."""
    read = {*_formats(), "MPO"}  # a JPEG with data appended, opened as a JPEG
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in read)


def decode(data: bytes, where: str) -> Image.Image:
    """Decodes an image file's bytes to an upright RGB image.

    Applies EXIF's Orientation, scales 16 bits to 8, places transparent pixels on `BACKGROUND`, uses the first of
    several frames, and scales images above 16 megapixels down by an integer factor.

    Raises:
        DataError: the file is truncated, damaged, too large or not an image; names `where` and, if known, the file
            type.
    """
    try:
        with _opened(data, where) as image:
            return _pixels(image, where)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{where}: {_otherwise(data)}") from error
    except Exception as error:  # damaged bytes can raise nearly any exception in a decoder
        raise DataError(f"{where}: truncated or damaged image ({_said(error)}); replace it or remove it") from error


def read_image(path: Path) -> Image.Image:
    """Reads an image file as an upright RGB image.

    Raises:
        DataError: the file cannot be read, or as for `decode`.
    """
    return decode(read_bytes(path), str(path))


def size_of(path: Path) -> tuple[int, int]:
    """The (width, height) of an image file in pixels as stored, from its header.

    Raises:
        DataError: the file cannot be read, or is no image.
    """
    data = read_bytes(path)
    try:
        with _opened(data, str(path)) as image:
            return image.size
    except UnidentifiedImageError as error:
        raise DataError(f"{path}: {_otherwise(data)}") from error


def read_bytes(path: Path) -> bytes:
    """Reads a file's bytes.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def conversions(data: bytes) -> tuple[str, ...]:
    """The conversions that `decode` will apply to an image, from its header alone; empty for a damaged file."""
    try:
        with _opened(data, "") as image:
            sixteen = _sixteen_bits(image)  # before the orientation: Pillow may decode the file to find it
            found = []
            if _orientation(image) in _TURNS:
                found.append(TURNED)
            if sixteen:
                found.append(SIXTEEN)
            if image.has_transparency_data:
                found.append(TRANSPARENT)
            if image.format != "MPO" and getattr(image, "is_animated", False):
                found.append(FRAMES)
            if _factor(image) > 1:
                found.append(REDUCED)
            return tuple(found)
    except Exception:  # `decode` reports what is wrong
        return ()


_OPENING = threading.Lock()


@contextmanager
def _opened(data: bytes, where: str) -> Iterator[Image.Image]:
    """Opens an image, reads only its header, and checks its size."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's warnings do not name the file
        with _OPENING:  # Pillow's own limit states neither the size nor a remedy
            before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                image = Image.open(io.BytesIO(data), formats=_formats())
            finally:
                Image.MAX_IMAGE_PIXELS = before
        with image:
            width, height = image.size
            if width * height > LARGEST:
                limit = f"the limit is {LARGEST // 10**6} megapixels: scale it down"
                raise DataError(f"{where}: too large ({width} x {height}); {limit}")
            yield image


def _sixteen_bits(image: Image.Image) -> bool:
    """Whether the file has 16 bits a channel. Pillow's mode says so of grey alone: in colour it keeps the upper 8."""
    return image.mode.startswith("I") or any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _factor(image: Image.Image) -> int:
    """The factor by which an image is scaled down."""
    return math.ceil(math.sqrt(image.width * image.height / _REDUCED))


def _pixels(image: Image.Image, where: str) -> Image.Image:
    factor = _factor(image)
    if factor > 1:
        image.draft(None, (image.width // factor, image.height // factor))  # JPEG only: avoids decoding at full size
    image.load()
    turn = _TURNS.get(
        _orientation(image)
    )  # after loading, because Pillow then has already rotated TIFFs and removed the tag
    factor = _factor(image)
    upright = _eight_bits(image, where) if image.mode[0] in "IF" else _opaque(image)
    if factor > 1:
        upright = upright.reduce(factor)
    return upright if turn is None else upright.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # ignore a damaged tag
        return 1
    return found if isinstance(found, int) else 1


def _eight_bits(image: Image.Image, where: str) -> Image.Image:
    """Converts 16-bit grey over its whole range; Pillow's own conversion clips at 255."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise DataError(
            f"{where}: {kind} pixels, whose value range is unknown; save the image with 8 or 16 bits per channel"
        )
    scaled = (values.astype(np.uint32) * 255 + 32767) // 65535
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")


def _opaque(image: Image.Image) -> Image.Image:
    """Converts to RGB and hides colours under transparent pixels."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    below = Image.new("RGBA", image.size, (*BACKGROUND, 255))
    below.alpha_composite(image.convert("RGBA"))
    return below.convert("RGB")


def _otherwise(data: bytes) -> str:
    """Describes a file that starts like no image format."""
    if not data:
        return "an empty file; replace it or remove it"
    start = data[:64]
    if not start.strip(b"\0"):
        return "all bytes are zero: a damaged file; replace it or remove it"
    kind = next((kind for pattern, kind in _OTHERS if pattern.match(start)), "")
    about = f" ({kind}{'?' if kind.isalpha() and kind.isupper() else ''})" if kind else ""
    return f"not a supported image format{about}; convert it to JPEG or PNG, or remove it"


def _said(error: Exception) -> str:
    """An error's message without memory addresses, or the error's type if it has no message."""
    text = re.sub(r"\s*<[^<>]* at 0x[0-9a-fA-F]+>", "", str(error)).strip()
    return text or type(error).__name__
