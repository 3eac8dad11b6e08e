"""Writes the file of `veilbench new`: one plugin class that runs as it is, with its contract in the docstring."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template

from bench.errors import UserError
from bench.labels import PluginKind, kind_name
from bench.storage.files import replacing

_DEFENSE = '''"""$Class: state in one sentence what it stores instead of features, and cite the source."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bench.contracts import Defense, ImageRng, System


@dataclass(frozen=True, kw_only=True)
class $Class(Defense):
    """Adds Gaussian noise to every feature.

    The fields are the parameters, the schema of the section in bench.toml, and part of the key of every result.
    Steps that are not overridden are those of an undefended system:

    - `fit(recognizer, public, rng)`: learns from the defender's public faces and returns a State. The harness stores it
      and passes it back as `system.state`. Nothing learned is kept on the plugin.
    - `encode(system, images)`: on the client; images (B, 3, H, W) in [0, 1] to features (B, C, h, w).
    - `protect(system, features, rng)`: on the server; features to the templates that it stores, and that leak.
    - `embed(system, templates)`: templates to unit embeddings (B, D).

    Values are float32. Work on copies, never on what is passed in. If a template depends on who else is in its batch,
    say so by the property `protect_batch`. `rng` has `uniform`, `normal` and `laplace`; `draw` takes any other law.

    `veilbench list` prints the first sentence of this docstring, `veilbench show` all of it, below the file's first
    line. A comment with `#:` says what a parameter means, and is printed beside it.
    """

    randomized: ClassVar[bool] = True  #: protecting the same image twice gives two templates

    sigma: float = 0.1  #: standard deviation of the noise

    def __post_init__(self) -> None:
        if self.sigma < 0:
            raise ValueError("sigma must be at least 0")

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """features + noise; all randomness must come from `rng`, which has a generator for each image."""
        return features + self.sigma * rng.normal(features)
'''

_KEYED = '''"""$Class: state in one sentence what it stores of an embedding, and cite the source."""

from dataclasses import dataclass

from torch import Tensor

from bench.contracts import Key, KeyedDefense, Rng


@dataclass(frozen=True, kw_only=True)
class $Class(KeyedDefense):
    """Stores the signs of secret projections of the embedding.

    `keys` (subject, record, system, pool) is inherited. Templates may have any type and shape. `score` is the cosine by
    default. `margins` lets attackers with the key write a template as inequalities; leave it out if there are none.
    """

    bits: int = 64  #: length of the template

    def draw_key(self, rng: Rng, width: int) -> Key:
        """All randomness must come from `rng`; the harness decides whose key it is."""
        return {"projection": rng.orthonormal(width, self.bits)}

    def transform(self, embeddings: Tensor, key: Key) -> Tensor:
        """Unit embeddings (B, D) to templates (B, bits)."""
        return embeddings @ key["projection"] > 0

    def score(self, stored: Tensor, probes: Tensor) -> Tensor:
        """Share of equal bits, (B,); higher is more similar."""
        return (stored == probes).float().mean(1)

    def margins(self, embeddings: Tensor, template: Tensor, key: Key) -> Tensor:
        """(B, bits); none is negative for embeddings that have this template."""
        return embeddings @ key["projection"] * (2.0 * template.float() - 1)
'''

_ATTACK = '''"""$Class: state in one sentence how it reconstructs a face, and cite the source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.contracts import FaceSet, ImageRng, Knowledge, Leak, Oracle, ReconstructionAttack, Rng, State


@dataclass(frozen=True, kw_only=True)
class $Class(ReconstructionAttack):
    """Combines public faces with the weights that reproduce the stolen features: kernel ridge regression.

    The fields are the parameters, the schema of the section in bench.toml, and part of the key of every result.

    - `level`: what the attacker knows. The oracle refuses calls above it, and counts the queries.
    - `fit(oracle, public, rng)`: learns from the attacker's own public faces and returns a State.
    - `reconstruct(oracle, state, leak, rng)`: `leak.values` are stolen templates (B, C, h, w); returns images
      (B, 3, H, W) in [0, 1]. It never sees the victim's image.
    """

    faces: int = 500  #: maximum number of public faces to combine
    ridge: float = 0.01  #: the regression's penalty, relative to the features' mean power

    def __post_init__(self) -> None:
        if self.faces < 2 or self.ridge <= 0:
            raise ValueError("faces must be at least 2, and ridge above 0")

    @property
    def level(self) -> Knowledge:
        """It queries the client's encoder for features of its own faces."""
        return Knowledge.ENCODER

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Features and images of public faces, in half precision."""
        features, images = [], []
        for start in range(0, min(len(public), self.faces), 50):
            batch = public.batch(slice(start, min(start + 50, self.faces)))
            features.append(oracle.encode(batch).half().cpu())
            images.append(batch.half())
        return State({"features": torch.cat(features), "images": torch.cat(images)}, {"faces": sum(map(len, images))})

    def reconstruct(self, oracle: Oracle, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """The mean face plus the regression's correction."""
        faces = state.tensors["images"].float().to(leak.values)
        known = state.tensors["features"].float().to(leak.values).flatten(1)
        middle = known.mean(0)
        known = known - middle
        alike = known @ known.T
        alike.diagonal().add_(self.ridge * alike.diagonal().mean())
        shares = torch.linalg.solve(alike, known @ (leak.values.flatten(1) - middle).T).T
        return faces.mean(0) + torch.einsum("bn,nchw->bchw", shares, faces - faces.mean(0))
'''

_DATASET = '''"""$Class: state in one sentence whose faces these are, under which licence, and how to get them."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.contracts import Alignment, Dataset, Evaluation, FaceSet, Pairs


@dataclass(frozen=True, kw_only=True)
class $Class(Dataset):
    """Coloured patterns instead of faces: replace `_image` with your own photographs.

    `revision` hashes all that `load` reads. `size` counts without aligning. `load` returns faces to judge, their
    genuine and impostor pairs in folds that share nobody, and the faces of everybody else, which defender and attacker
    may learn from. For photographs, replace `_image` by `find_photographs`, `examine` and `align` of bench.datasets:
    docs/own.md has an example, bench/datasets/folder.py another.
    """

    people: int = 40  #: half of them are judged, the others public
    version: int = 1  #: increment when the same name gives another image

    def __post_init__(self) -> None:
        if self.people < 8:
            raise ValueError("people must be at least 8")

    def revision(self) -> str:
        """A hash of the parameters, since there are no files yet."""
        return hashlib.sha256(f"$name {self.people} {self.version}".encode()).hexdigest()

    def size(self) -> tuple[int, int]:
        """(images to judge, public images), two of each person."""
        judged = 2 * (self.people // 2)
        return judged, 2 * self.people - judged

    def load(self, alignment: Alignment, cache: Path) -> Evaluation:
        """Two images of each person; the first is paired with the second one and with the next person's second."""
        owners = [person for person in range(self.people) for _ in range(2)]
        pixels = np.stack([_image(person, index % 2, alignment.size) for index, person in enumerate(owners)])
        names = tuple(f"{person:04}/{index % 2}" for index, person in enumerate(owners))
        subjects = tuple(f"{person:04}" for person in owners)
        every = FaceSet(pixels, np.arange(len(owners)), names, subjects, np.ones(len(owners), dtype=bool))
        judged = self.size()[0]
        first = np.arange(0, judged, 2)
        half = len(first) // 2
        following = np.concatenate([np.roll(part, -1) for part in (first[:half], first[half:])])
        fold = (np.arange(len(first)) >= half).astype(np.int64)
        pairs = Pairs(
            left=np.concatenate([first, first]),
            right=np.concatenate([first + 1, following + 1]),
            genuine=np.repeat([True, False], len(first)),
            fold=np.concatenate([fold, fold]),
        )
        return Evaluation(every.subset(range(judged)), pairs, every.subset(range(judged, len(owners))))


def _image(person: int, number: int, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8: waves that identify a person, and noise."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    rng = np.random.default_rng([person, 0])
    waves = [np.sin(rng.uniform(0.05, 0.3) * rows + rng.uniform(0.05, 0.3) * columns + p) for p in rng.uniform(0, 6, 3)]
    noise = np.random.default_rng([person, 1 + number]).normal(0, 0.05, (*size, 3))
    return np.rint((0.5 + 0.35 * np.stack(waves, -1) + noise).clip(0, 1) * 255).astype(np.uint8)
'''

_RECOGNIZER = '''"""$Class: state in one sentence what it was trained on, and where its weights come from."""

import hashlib
from dataclasses import dataclass

import torch
from torch import nn

from bench.contracts import Alignment, Conv, Recognizer, SplitNetwork


@dataclass(frozen=True, kw_only=True)
class $Class(Recognizer):
    """An untrained network, split in two: `client` computes the stored features, `server` the embedding.

    An ONNX file or a module with a checkpoint needs no class: plugin = "onnx" or "module" (docs/recognisers.md).

    `build` creates it without weights, for `veilbench train-recognizer`; `load` adds them. Replace the random weights
    with a file: see `fill`, `find_weights` and `read_weights` in bench/storage/weights.py.
    """

    seed: int = 0  #: seed of its random weights

    @property
    def alignment(self) -> Alignment:
        """How faces are cropped: the detector's box, 64 x 64 pixels."""
        return Alignment("margin", (64, 64))

    def weights_hash(self) -> str:
        """A hash of the seed, since there is no file yet."""
        return hashlib.sha256(f"$name {self.seed}".encode()).hexdigest()

    def build(self) -> SplitNetwork:
        """The network, with weights from torch's global generator."""
        client = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 1, 1), nn.ReLU())
        server = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 64))
        layout = (Conv(3, 16, 3, 2, 1), Conv(16, 32, 3, 1, 1))  # the client's, for decoders that mirror it
        return SplitNetwork(client, server, image_size=(64, 64), layout=layout)

    def load(self) -> SplitNetwork:
        """The network with its weights, in eval mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self.build().eval()
'''

_TEXTS: dict[PluginKind, str] = {"defense": _DEFENSE, "attack": _ATTACK, "dataset": _DATASET, "recognizer": _RECOGNIZER}
_SECTIONS: dict[PluginKind, str] = {
    "defense": "defenses", "attack": "attacks", "dataset": "datasets", "recognizer": "recognizers"
}  # fmt: skip


def scaffold(kind: PluginKind, name: str, folder: Path, keyed: bool = False) -> Path:
    """Writes `folder/NAME.py`.

    Args:
        keyed: a defence of embeddings under keys, instead of feature maps.

    Raises:
        UserError: the name is not a Python identifier, or the file exists.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        raise UserError(f"{name!r} cannot name a {kind_name(kind)}: use letters, digits and _, such as my_{kind}")
    path = folder / f"{name}.py"
    if path.exists():
        raise UserError(f"{path}: this file already exists; choose another name, or remove it first")
    text = _KEYED if keyed else _TEXTS[kind]
    title = "".join(part[:1].upper() + part[1:] for part in name.split("_") if part)
    if re.search(rf"import .*\b{title}\b", text):
        raise UserError(f"{name!r}: {title} is a class of the contract; choose another name, such as my_{name}")
    with replacing(path) as temporary:
        temporary.write_text(Template(text).substitute(Class=title, name=name), encoding="utf-8")
    return path


def advice(kind: PluginKind, name: str, path: Path) -> str:
    """The next steps, for the user."""
    section = _SECTIONS[kind]
    return (
        f"Wrote {path}. It runs as it is. Next steps:\n\n"
        f"  veilbench check {path}\n\n"
        f'and in bench.toml, with {name!r} in run.{section}:\n\n  [{section}.{name}]\n  plugin = "{path}"'
    )
