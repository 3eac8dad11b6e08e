"""Draws a contact sheet: `python -m bench.synthesis sheet.png` shows eight people in eight photographs each."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from bench.storage.files import replacing
from bench.synthesis import sample_person, sample_shot
from bench.synthesis.render import render

_PEOPLE, _SIDE = 8, 128
# Positions of eyes, nose tip and mouth corners, as fractions of the side.
_POINTS = [(0.354, 0.417), (0.646, 0.417), (0.5, 0.583), (0.385, 0.754), (0.621, 0.752)]


def main(path: Path) -> None:
    """Six frontal photographs of each person, one from the side, and one thirty years later."""
    people = [sample_person("sheet", index) for index in range(_PEOPLE)]
    rows = []
    for number, person in enumerate(people):
        shots = [sample_shot(person, "sheet", number, image) for image in range(6)]
        shots.append(sample_shot(person, "sheet", number, 6, pose="profile"))
        shots.append(sample_shot(person, "sheet", number, 7, age=min(80.0, person["age"] + 30)))
        rows.append(render([person] * 8, shots, (_SIDE, _SIDE), [(x * _SIDE, y * _SIDE) for x, y in _POINTS]))
    sheet = Image.new("RGB", (8 * _SIDE, _PEOPLE * _SIDE))
    for y, row in enumerate(rows):
        for x, face in enumerate(row):
            sheet.paste(Image.fromarray(face), (x * _SIDE, y * _SIDE))
    with replacing(path) as temporary:
        sheet.save(temporary, "PNG")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "sheet.png"))
