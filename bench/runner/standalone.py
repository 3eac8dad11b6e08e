"""Protects a folder of faces without pairs or protocol: the implementation of `veilbench protect`."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench import __version__
from bench.contracts import (
    Defense,
    FaceSet,
    Rng,
    SplitNetwork,
    State,
    System,
)
from bench.datasets.folder import ImageFolder
from bench.datasets.inspection import public_section
from bench.datasets.public_faces import REST
from bench.errors import DataError, UserError
from bench.plan import public_sources
from bench.runner.defending import protect
from bench.runner.noise import NoiseMeter
from bench.runner.standalone_files import Protected
from bench.seeds import derive_seed
from bench.settings.model import Settings
from bench.settings.resolve import load
from bench.settings.toml import default_path, parse_values, read_file
from bench.storage.keys import source_hash
from bench.toolkit.precision import pick_device, precision_name

_PUBLIC = "public_folder"  #: the dataset label of `public`


def settings_of(
    config: Path | None,
    profile: str | None,
    overrides: Sequence[str],
    *,
    defense: str,
    recognizer: str = "",
    attack: str = "",
    attacks: Sequence[str] = (),
    public: Path | None = None,
    detect: bool = False,
) -> Settings:
    """Selects one recogniser, one defence and some attacks, each by its label in the config.

    Args:
        recognizer: empty: the only one in the config.
        public: a folder or pack of faces for training, half of its people for each side; None: as in the config.
        detect: detect faces in `public`; otherwise they are already cropped.

    Raises:
        UserError: a label is unknown or stands for several plugins.
    """
    labels = [recognizer] if recognizer else read_file(config or default_path(), profile, overrides).run.recognizers
    chosen: dict[str, Any] = {
        **parse_values(overrides, "--set"),
        "run.recognizers": labels, "run.defenses": [defense], "run.attacks": [attack] if attack else list(attacks),
        "run.judge": "", "run.replay": False, "run.controls": False, "run.canaries": False,
    }  # fmt: skip
    if public is not None:
        chosen = {**chosen, f"datasets.{_PUBLIC}": public_section(public, aligned=not detect)}
        chosen |= {"run.public_defender": _PUBLIC, "run.public_attacker": _PUBLIC}
    settings = load(config, profile, chosen)
    for what, some in (("recogniser", settings.recognizers), ("defence", settings.defenses)):
        if len(some) != 1:
            raise UserError(f"one {what} at a time; the settings have {', '.join(some)}: choose by its label")
    return settings


def faces_of(folder: Path, settings: Settings, detect: bool = False) -> FaceSet:
    """The images of a folder, aligned for the recogniser; images without a face are left out.

    Raises:
        DataError: the folder or its images are missing, an image is damaged, or no image has a face.
    """
    (recognizer,) = settings.recognizers.values()
    source = ImageFolder(path=str(folder), identities=False, aligned=not detect)
    with tempfile.TemporaryDirectory() as cache:
        found = source.load(recognizer.alignment, Path(cache)).public
        if found is None or not len(found):
            raise DataError(
                f"{folder}: no face was found in any image; without --detect the images count as already cropped"
            )
        return replace(found, pixels=found.pixels[found.rows], rows=np.arange(len(found)))


class Parts:
    """The loaded recogniser, the defence and the public faces."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.settings, self.seed = settings, seed
        self.device = pick_device(settings.run.device)
        ((self.recognizer_label, self.recognizer),) = settings.recognizers.items()
        ((self.label, self.defense),) = settings.defenses.items()
        self.network: SplitNetwork = self.recognizer.load().to(self.device).eval().requires_grad_(False)

    def rng(self, *names: object) -> Rng:
        """Derived as in a run, so that the same face under the same name gets the same noise."""
        return Rng(derive_seed(self.seed, *names))

    def public(self, judged: FaceSet) -> tuple[FaceSet, FaceSet]:
        """The (defender's, attacker's) public faces, disjoint from each other and from the judged ones."""
        run, alignment = self.settings.run, self.recognizer.alignment
        first = next(iter(self.settings.datasets.values()))

        def load(label: str) -> FaceSet:
            dataset = first if label == REST else self.settings.public[label]
            found = dataset.load(alignment, Path(run.cache)).public
            if found is None or not len(found):
                raise UserError("there are no public faces to train on: name a folder with --public")
            return found

        def people(label: str) -> frozenset[str]:
            return (first if label == REST else self.settings.public[label]).known_people()[1]

        sources = public_sources(self.settings)
        # Whom the folder shows is unknown, so that only the sides' own sets can be compared by name.
        sides = sources.divide(judged, judged, load, sources.left_out((), people))
        return sides.defender, sides.attacker

    def system(self, state: State | None) -> System:
        """The defended system without the part that its server trains, which does not affect templates."""
        return System(
            recognizer=self.network,
            defense=self.defense.at("protect"),
            state=self.defense.prepare(self.network, state),
            device=self.device,
            templates_only=type(self.defense).fit_server is not Defense.fit_server,
        )

    def identity(self) -> dict[str, Any]:
        """What templates depend on, besides the faces and the seed; JSON-able."""
        return {
            "defense": {
                "label": self.label,
                "parameters": asdict(self.defense),
                "source": source_hash(type(self.defense)),
            },
            "recognizer": {
                "label": self.recognizer_label,
                "parameters": self.recognizer.identity(),
                "weights": self.recognizer.weights_hash(),
            },
        }

    def origin(self) -> dict[str, Any]:
        """Versions and hardware that may affect a figure."""
        precision = precision_name(self.device)
        versions = {"veilbench": __version__, "torch": torch.__version__}
        return {"seed": self.seed, "device": str(self.device), "precision": precision, "versions": versions}


def protect_faces(settings: Settings, faces: FaceSet, seed: int = 0) -> Protected:
    """Protects the faces; first fits the defence on the defender's public faces if necessary."""
    parts = Parts(settings, seed)
    kind = type(parts.defense).__name__
    state = None
    if type(parts.defense).fit is not Defense.fit:
        defender, _ = parts.public(faces)
        state = parts.defense.at("fit").fit(parts.network, defender, parts.rng("fit", kind))
    system, noise = parts.system(state), NoiseMeter()
    stored: NDArray[Any] | None = None
    started = time.perf_counter()
    for batch, features, templates in protect(system, faces, faces.names, parts.rng("protect", kind), None):
        if stored is None:
            stored = np.empty((len(faces), *templates.shape[1:]), dtype=system.defense.template_dtype)
        stored[batch] = templates.float().cpu().numpy()
        if system.defense.adds_noise:
            with torch.no_grad():
                noise.add(features, system.defense.reference(system, features), templates)
    assert stored is not None
    seconds = time.perf_counter() - started
    account = {
        **parts.identity(),
        "templates": {"shape": list(stored.shape), "dtype": str(stored.dtype), "bytes": stored[0].nbytes},
        "noise": noise.figures(),
        "claims": parts.defense.claims(parts.network.image_size),
        "ms_per_image": round(1000 * seconds / len(faces), 3),
        "learned": dict(state.info) if state else None,
        **parts.origin(),
    }
    return Protected(stored, faces.names, state, account)
