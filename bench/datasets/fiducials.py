"""CFP's 30 fiducial points: reads them, and derives the five points by which recognisers align faces.

The points are on one half of the face: on frontal photographs the half on the image's left, on profiles the one that is
seen. Counted from 1: jaw from ear to chin (1 to 9), eyebrow (10 to 12), eye (13 to 18), nose from its bridge to its tip
(19 to 22), underside of the nose (23 to 25), corner of the mouth (26), and the middle of the lips from top to bottom
(27, 28, 30, 29).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bench.errors import DataError

COUNT = 30  #: points a photograph
RULE = 1  #: increment when `five_points` gives others
_EYE, _BRIDGE, _TIP, _CORNER, _LIPS = slice(12, 18), 18, 21, 25, (27, 29)
# How far the points of the other half are from those of this half, in multiples of the distance to the middle of the
# face: a frontal face is symmetric. On a profile the other half is hidden, and what counts is where MTCNN puts its
# points, which recognisers are trained with: 1.24 for eyes and 1.12 for mouths (medians on 572 photographs).
_ACROSS = {"frontal": 2.0, "profile": 1.2}


def parse_fiducials(text: str, where: str) -> NDArray[np.float64]:
    """The points of one photograph, (30, 2) as (x, y) pixels, from lines of `x,y`.

    Raises:
        DataError: a line is no point, or there are not 30; names the file and the line.
    """
    lines = text.rstrip().split("\n")
    points = []
    for number, line in enumerate(lines, 1):
        try:
            x, y = (float(word) for word in line.split(","))
            if not (math.isfinite(x) and math.isfinite(y)):
                raise ValueError
        except ValueError as error:
            raise DataError(f"{where}:{number}: expected a point `x,y`, got {line[:80]!r}") from error
        points.append((x, y))
    if len(points) != COUNT:
        raise DataError(f"{where}: {len(points)} points; expected {COUNT}, one a line")
    return np.array(points)


def five_points(fiducials: NDArray[np.float64], pose: str) -> NDArray[np.float64]:
    """The eyes' centres, the nose tip and the corners of the mouth, (5, 2), from the 30 points, (30, 2).

    The order is MTCNN's: of the eyes and of the corners, first the one on the image's left.

    Args:
        pose: `frontal` or `profile`.
    """
    eye, tip, corner = fiducials[_EYE].mean(0), fiducials[_TIP], fiducials[_CORNER]
    lips = fiducials[list(_LIPS)].mean(0)
    across = _ACROSS[pose]
    other_eye = eye + across * (fiducials[_BRIDGE] - eye)
    other_corner = corner + across * (lips - corner)
    down, ahead = corner - eye, tip - eye
    if down[1] * ahead[0] - down[0] * ahead[1] < 0:  # the nose points to the image's left, so this half is on the right
        return np.stack([other_eye, eye, tip, other_corner, corner])
    return np.stack([eye, other_eye, tip, corner, other_corner])
