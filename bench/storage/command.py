"""The file `settings.json` in a run's folder: what `veilbench run` was told, so that others can repeat it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import DataError
from bench.storage.files import replacing

FILE = "settings.json"
_OWN = ("output", "store", "cache", "mirror", "device", "threads")  #: of `[run]`: about one machine only


@dataclass(frozen=True)
class Command:
    """A call of `veilbench run`."""

    profile: str = ""
    overrides: tuple[str, ...] = ()  #: as given to --set
    settings: Mapping[str, Any] = field(default_factory=dict)  #: all of `bench.toml`, with profile and overrides
    families: Mapping[str, str] = field(default_factory=dict)  #: of defences that are not of the family `features`

    def text(self) -> str:
        """The command, as a shell takes it."""
        words = ["veilbench", "run", *(["--profile", self.profile] if self.profile else [])]
        return shlex.join([*words, *(word for override in self.overrides for word in ("--set", override))])


def note_command(folder: Path, command: Command) -> None:
    """Writes the file, without what only concerns this machine."""
    run = {name: value for name, value in command.settings.get("run", {}).items() if name not in _OWN}
    overrides = [o for o in command.overrides if o.partition("=")[0].strip() not in {f"run.{name}" for name in _OWN}]
    content = asdict(command) | {"settings": {**command.settings, "run": run}, "overrides": overrides}
    with replacing(folder / FILE) as path:
        path.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")


def read_command(folder: Path) -> Command | None:
    """What a run was told; None if the folder does not say. The content is not trusted, and none of it is executed.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable settings ({error}); the same veilbench run writes them again") from error
    whole = isinstance(found, dict) and all(
        isinstance(found.get(name), kind)
        for name, kind in {"profile": str, "overrides": list, "settings": dict, "families": dict}.items()
    )
    if not whole or not isinstance(found["settings"].get("run"), dict):
        raise DataError(f"{path}: not the settings of a run; the same veilbench run writes them again")
    families = {str(name): str(family) for name, family in found["families"].items()}
    return Command(found["profile"], tuple(map(str, found["overrides"])), found["settings"], families)
