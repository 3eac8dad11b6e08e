"""The one place where an image file's bytes become pixels: upright, 8 bits a channel, RGB, of bounded size."""

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

BACKGROUND = (128, 128, 128)  #: what transparent pixels are laid over
LARGEST = 100_000_000  #: pixels; a larger image is refused before it is decoded
_REDUCED = 16_000_000  #: pixels above which an image is scaled down as it is read: no face needs as many

# Photographs, by Pillow's names of formats. Not the documents, stubs and drawings that it knows too: some of these
# start other programs. What a file is follows from its bytes, not from its suffix.
_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "TIFF", "PPM", "GIF", "JPEG2000", "AVIF")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  #: by the value of EXIF's Orientation

# How other kinds of files begin that end up under an image's name.
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
    (re.compile(rb"\x00\x05\x16\x07"), "macOS's notes on another file"),
    (re.compile(rb"....ftyp|\x1aE\xdf\xa3", re.DOTALL), "a film, or an image format of a phone"),
    (re.compile(rb"\xff\x0a|\x00\x00\x00\x0cJXL "), "JPEG XL"),
)

TURNED = "turned upright, as their EXIF orientation says"
SIXTEEN = "scaled from 16 bits to 8"
TRANSPARENT = f"with an alpha channel, laid over grey {BACKGROUND[0]}"
FRAMES = "with several frames: the first was taken"
REDUCED = f"scaled down while reading: more than {_REDUCED // 10**6} megapixels"


@cache
def _formats() -> tuple[str, ...]:
    """Those that this build of Pillow has."""
    Image.init()
    return tuple(kind for kind in _FORMATS if kind in Image.OPEN)


@cache
def suffixes() -> frozenset[str]:
    """Names' endings of what `decode` reads, in lower case, with their dot."""
    read = {*_formats(), "MPO"}  # a JPEG with more behind it, and opened as one
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in read)


def decode(data: bytes, where: str) -> Image.Image:
    """An upright RGB image from its file's bytes.

    Turned as EXIF's Orientation says; 16 bits scaled to 8; transparent pixels laid over `BACKGROUND`; of several frames
    the first; above 16 megapixels scaled down by a whole number.

    Raises:
        DataError: it is truncated, damaged, too large, or no image; names `where`, and what else it is.
    """
    try:
        with _opened(data, where) as image:
            return _pixels(image, where)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{where}: {_otherwise(data)}") from error
    except Exception as error:  # damaged bytes make a decoder fail in nearly any way
        raise DataError(f"{where}: truncated or damaged image ({_said(error)}); replace it or remove it") from error


def read_image(path: Path) -> Image.Image:
    """An upright RGB image from a file.

    Raises:
        DataError: it cannot be read, or as `decode`.
    """
    return decode(read_bytes(path), str(path))


def read_bytes(path: Path) -> bytes:
    """A file's bytes.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def conversions(data: bytes) -> tuple[str, ...]:
    """What `decode` will do to an image beyond reading it, from its header alone; nothing for what is damaged."""
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
    except Exception:  # `decode` says what is wrong with it
        return ()


_OPENING = threading.Lock()


@contextmanager
def _opened(data: bytes, where: str) -> Iterator[Image.Image]:
    """The image, nothing but its header read, and its size checked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow's, which name no file
        with _OPENING:  # Pillow's own limit says neither the size nor what to do
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
    """By how much an image is scaled down."""
    return math.ceil(math.sqrt(image.width * image.height / _REDUCED))


def _pixels(image: Image.Image, where: str) -> Image.Image:
    factor = _factor(image)
    if factor > 1:
        image.draft(None, (image.width // factor, image.height // factor))  # JPEG only: never decoded whole
    image.load()
    turn = _TURNS.get(_orientation(image))  # after loading: TIFFs are turned by then, and say so no more
    factor = _factor(image)
    upright = _eight_bits(image, where) if image.mode[0] in "IF" else _opaque(image)
    if factor > 1:
        upright = upright.reduce(factor)
    return upright if turn is None else upright.transpose(turn)


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged tag turns nothing
        return 1
    return found if isinstance(found, int) else 1


def _eight_bits(image: Image.Image, where: str) -> Image.Image:
    """Grey of 16 bits, by the whole range of 16 bits; Pillow's own conversion cuts off at 255."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise DataError(f"{where}: {kind} pixels, whose range nobody can know; save it with 8 or 16 bits a channel")
    scaled = (values.astype(np.uint32) * 255 + 32767) // 65535
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")


def _opaque(image: Image.Image) -> Image.Image:
    """RGB; whatever lies under transparent pixels does not show."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    below = Image.new("RGBA", image.size, (*BACKGROUND, 255))
    below.alpha_composite(image.convert("RGBA"))
    return below.convert("RGB")


def _otherwise(data: bytes) -> str:
    """What a file is that no image format begins like."""
    if not data:
        return "an empty file; replace it or remove it"
    start = data[:64]
    if not start.strip(b"\0"):
        return "nothing but zeros: a damaged file; replace it or remove it"
    kind = next((kind for pattern, kind in _OTHERS if pattern.match(start)), "")
    about = f" ({kind}{'?' if kind.isalpha() and kind.isupper() else ''})" if kind else ""
    return f"not an image format that this reads{about}; convert it to JPEG or PNG, or remove it"


def _said(error: Exception) -> str:
    """An error's message without addresses in memory; its kind where it says nothing."""
    text = re.sub(r"\s*<[^<>]* at 0x[0-9a-fA-F]+>", "", str(error)).strip()
    return text or type(error).__name__
