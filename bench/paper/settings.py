"""The section `[paper]`, which maps labels to their parts in the AdvFace paper's tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from bench.errors import UserError
from bench.settings.model import Strict
from bench.settings.toml import default_path, explained, read_file


def _one_of(*names: str) -> Any:
    return Field(pattern="^(" + "|".join(map(re.escape, names)) + ")$")


class PaperSettings(Strict):
    """`[paper]`: the labels for each part of the AdvFace paper's tables and figures."""

    recognizer: str = ""
    #: Columns; omit those without data.
    datasets: dict[Annotated[str, _one_of("lfw", "cfp_fp", "agedb")], str] = Field(default={})
    methods: dict[
        Annotated[str, _one_of("Unprotected", "Random", "DP", "DuetFace", "AdvFace", "AdvFace (offline)")], str
    ] = Field(default={})
    shadows: dict[Annotated[str, _one_of("transpose", "resnet", "unet")], str] = Field(default={})
    attacks: dict[Annotated[str, _one_of("TransRec", "ResRec", "URec")], str] = Field(default={})
    bounds: str = ""  #: a defence that sweeps epsilon


def load_paper(path: Path | None = None, profile: str | None = None, overrides: Sequence[str] = ()) -> PaperSettings:
    """Reads only `[paper]`, so that missing data sets need not be resolved.

    Raises:
        UserError: as for `load`.
    """
    path = path or default_path()
    try:
        return PaperSettings.model_validate(read_file(path, profile, overrides).paper)
    except ValidationError as error:
        raise UserError(explained(error, path, "paper", PaperSettings)) from error
