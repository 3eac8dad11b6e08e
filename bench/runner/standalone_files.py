"""The files of `veilbench protect` and `veilbench attack`, in formats that other tools can read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file, save_file

from bench.contracts import State
from bench.errors import DataError, UserError
from bench.storage.arrays import read_state, write_state
from bench.storage.files import replacing

Format = Literal["npy", "safetensors"]

_ACCOUNT = "protect.json"


@dataclass(frozen=True, eq=False)
class Protected:
    """Templates, and how they were made."""

    templates: NDArray[Any]  #: (N, ...) as stored by the server
    names: tuple[str, ...]  #: (N,) names of the images, relative to their folder
    state: State | None  #: the fitted defence
    account: Mapping[str, Any]  #: JSON-able: defence, recogniser, seed, measured noise, bytes, time

    def write(self, folder: Path, fmt: Format = "npy") -> list[Path]:
        """Writes templates.npy or .safetensors, templates.csv (row, name), state/, and finally protect.json."""
        frame = pd.DataFrame({"row": range(len(self.names)), "name": self.names})
        written = [_write_array(folder, "templates", self.templates, fmt), _write_csv(folder / "templates.csv", frame)]
        (folder / "state").mkdir(exist_ok=True)
        write_state(folder / "state", self.state)
        return [*written, folder / "state", _write_json(folder / _ACCOUNT, self.account)]

    def label(self, what: Literal["defense", "recognizer"]) -> str:
        """The label of the defence or recogniser that made the templates.

        Raises:
            UserError: the label is a file; templates may be untrusted, and must not choose which code runs.
        """
        label = str(self.account[what]["label"])
        if label.endswith(".py"):
            raise UserError(f"the templates were made by the file {label}: if you trust it, add --{what} FILE.py")
        return label

    @classmethod
    def read(cls, folder: Path) -> Protected:
        """Reads what `write` wrote.

        Raises:
            DataError: the files are missing or damaged.
        """
        try:
            account = json.loads((folder / _ACCOUNT).read_text(encoding="utf-8"))
            names = pd.read_csv(folder / "templates.csv", keep_default_na=False)["name"].astype(str)
            templates = _read_array(folder, "templates")
            found = cls(templates, tuple(names), read_state(folder / "state"), account)
            shape = tuple(account["templates"]["shape"])
            _ = account["defense"]["label"], account["recognizer"]["label"]
        except Exception as error:  # damaged files can raise nearly any exception
            raise DataError(f"{folder}: no readable templates from veilbench protect ({error})") from error
        if tuple(templates.shape) != shape or len(names) != len(templates):
            raise DataError(
                f"{folder}: templates of shape {tuple(templates.shape)} and {len(names)} names, but expected {shape}"
            )
        return found


@dataclass(frozen=True, eq=False)
class Rebuilt:
    """The reconstructions of an attack from templates."""

    images: NDArray[np.float32]  #: (M, 3, H, W) in [0, 1]
    table: pd.DataFrame  #: (M) row and name of the template, file of the picture; scores if the originals are known
    account: Mapping[str, Any]  #: JSON-able: attack, level, queries, mean scores with intervals

    def write(self, folder: Path, fmt: Format = "npy") -> list[Path]:
        """Writes reconstructions.npy or .safetensors, images/*.png, reconstructions.csv, and finally attack.json."""
        pixels = np.rint(self.images * 255).astype(np.uint8).transpose(0, 2, 3, 1)
        for file, image in zip(self.table["file"], pixels, strict=True):
            with replacing(folder / file) as temporary:
                Image.fromarray(image).save(temporary, format="png")
        written = [_write_array(folder, "reconstructions", self.images, fmt), folder / "images"]
        written.append(_write_csv(folder / "reconstructions.csv", self.table))
        return [*written, _write_json(folder / "attack.json", self.account)]


def _write_array(folder: Path, name: str, array: NDArray[Any], fmt: Format) -> Path:
    path = folder / f"{name}.{fmt}"
    with replacing(path) as temporary:
        if fmt == "npy":
            with temporary.open("wb") as file:
                np.save(file, array, allow_pickle=False)
        else:
            save_file({name: np.ascontiguousarray(array)}, temporary)
    other = path.with_suffix(".npy" if fmt == "safetensors" else ".safetensors")
    other.unlink(missing_ok=True)  # from an earlier call: a folder never holds two sets of templates
    return path


def _read_array(folder: Path, name: str) -> NDArray[Any]:
    path = folder / f"{name}.safetensors"
    if path.is_file():
        return load_file(path)[name]
    array: NDArray[Any] = np.load(folder / f"{name}.npy", allow_pickle=False)
    return array


def _write_csv(path: Path, frame: pd.DataFrame) -> Path:
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False)
    return path


def _write_json(path: Path, account: Mapping[str, Any]) -> Path:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(account, indent=1, allow_nan=False), encoding="utf-8")
    return path
