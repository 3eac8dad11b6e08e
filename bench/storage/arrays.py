"""Reads and writes fitted states and arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from bench.contracts import State


def write_state(folder: Path, state: State | None) -> None:
    """Writes a fitted state as safetensors and JSON; None is written as an empty file of information."""
    if state is not None and state.tensors:
        save_file({name: value.contiguous() for name, value in state.tensors.items()}, folder / "state.safetensors")
    info = None if state is None else dict(state.info)
    (folder / "info.json").write_text(json.dumps(info, indent=1, allow_nan=False), encoding="utf-8")


def read_state(folder: Path) -> State | None:
    """Reads what `write_state` wrote."""
    info = json.loads((folder / "info.json").read_text(encoding="utf-8"))
    if info is None:
        return None
    path = folder / "state.safetensors"
    return State(load_file(path) if path.exists() else {}, info)


def write_arrays(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes each array as a `.npy` file."""
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


class Rows:
    """An array on disk, of which only the rows in use are in memory.

    Every access maps the file anew and copies, because the pages that a long-lived mapping has touched would stay in
    memory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def create(cls, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Rows:
        """Creates a file filled with zeros."""
        np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)  # type: ignore[no-untyped-call]
        return cls(path)

    def _mapped(self, mode: Literal["r", "r+"]) -> NDArray[Any]:
        array: NDArray[Any] = np.load(self._path, mmap_mode=mode, allow_pickle=False)
        return array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole array."""
        return self._mapped("r").shape

    @property
    def row_bytes(self) -> int:
        """Shape of one row."""
        whole = self._mapped("r")
        return whole.nbytes // max(1, len(whole))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        return np.array(self._mapped("r")[rows])

    def __setitem__(self, rows: Any, values: NDArray[Any]) -> None:
        self._mapped("r+")[rows] = values


def read_array(folder: Path, name: str) -> NDArray[Any]:
    """An array, memory-mapped."""
    array: NDArray[Any] = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    return array
