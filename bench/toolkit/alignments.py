"""How published recognisers want faces cut out, by name."""

from __future__ import annotations

from bench.contracts import Alignment

# (x, y) in pixels: left eye, right eye, nose, left and right corner of the mouth.
_SPHEREFACE = ((30.2946, 51.6963), (65.5318, 51.5014), (48.0252, 71.7366), (33.5493, 92.3655), (62.7299, 92.2041))
_ARCFACE = tuple((x + 8.0, y) for x, y in _SPHEREFACE)

#: `arcface-112`: insightface's, on which most public weights were trained; `sphereface-112x96`: the narrower original;
#: `facenet-160`: the detector's box with facenet-pytorch's margin.
ALIGNMENTS = {
    "arcface-112": Alignment("five-point", (112, 112), points=_ARCFACE),
    "sphereface-112x96": Alignment("five-point", (112, 96), points=_SPHEREFACE),
    "facenet-160": Alignment("margin", (160, 160), margin=14),
}


def box(size: tuple[int, int], margin: int = 0) -> Alignment:
    """The detector's box at (height, width), `margin` pixels wider."""
    return Alignment("margin", size, margin=margin)
