"""What a plugin must be: the one file that the author of a defence, attack, recogniser or dataset reads.

Plugins are frozen, keyword-only dataclasses. Their fields are at once the parameters, the schema of their section in
`bench.toml`, the repr, and part of the key under which their results are stored. They hold no learned state: `fit`
returns it, the store keeps it, the harness passes it back.

Images are float32 RGB in [0, 1], shaped (B, 3, H, W), at every contract; a recogniser owns its pixel normalisation.
The system under attack is the split one of the AdvFace paper (section 3.1):

    images --encode--> features --protect--> template (stored, LEAKS) --embed--> embedding --cosine--> same person?
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.seeds import ImageRng, Rng

if TYPE_CHECKING:
    from bench.oracle import Oracle

__all__ = [
    "Alignment", "Attack", "Conv", "DataError", "Dataset", "Defense", "Evaluation", "FaceSet", "ImageRng", "Knowledge",
    "KnowledgeError", "Leak", "LinkageAttack", "NotApplicable", "Pairs", "Recognizer", "ReconstructionAttack",
    "ReplayAttack", "Rng", "SplitNetwork", "State", "System", "UserError",
]  # fmt: skip


class UserError(Exception):
    """Something that the user can mend. The message names what was wrong, where, and what to do; shown bare, exit 2."""


class DataError(UserError):
    """A file that is missing, damaged, hostile or of the wrong kind."""


class NotApplicable(Exception):
    """An attack has nothing to try on this defence. The message says why; the cell is skipped, and shown as that."""


class KnowledgeError(Exception):
    """An attack asked the oracle for more than its declared level of knowledge allows."""


class Knowledge(enum.IntEnum):
    """What the attacker knows; each level includes those before it (design: Kerckhoffs's ladder)."""

    BLIND = 0  #: public faces only; never looks at the template
    ENCODER = 1  #: + black-box E: (image, clean feature) pairs; the AdvFace paper's attacker
    ALGORITHM = 2  #: + the defence's algorithm and settings, to run an own copy; not its learned state or secrets
    ENROLMENT = 3  #: + may enrol own images and read their templates back
    WHITEBOX = 4  #: + the whole pipeline with gradients; not the server's fresh randomness

    def __str__(self) -> str:
        return self.name.lower()


# --------------------------------------------------------------------------------------------------------- faces


@dataclass(frozen=True)
class Alignment:
    """How a recogniser wants faces cut out of photographs.

    `margin`: facenet-pytorch's square-ish crop of the detector's box, `margin` pixels wider at output scale.
    `five-point`: similarity transform (Umeyama) of the eyes, nose and mouth corners onto `points`, (x, y) pixels.
    """

    method: Literal["margin", "five-point"]
    size: tuple[int, int]  #: (height, width) in pixels
    margin: int = 0
    points: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, eq=False)
class FaceSet:
    """Aligned faces. `pixels` may be memory-mapped and larger than the set: `rows` says which of it belong here."""

    pixels: NDArray[np.uint8] = field(repr=False)  #: (M, H, W, 3) uint8 RGB
    rows: NDArray[np.int64] = field(repr=False)  #: (N,) rows of `pixels`
    names: tuple[str, ...] = field(repr=False)  #: (N,) unique and stable: a seed is derived from each
    subjects: tuple[str, ...] | None = field(repr=False)  #: (N,) the person; None where identities are unknown
    found: NDArray[np.bool_] = field(repr=False)  #: (N,) False where no face was detected

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[2])

    def batch(self, indices: Sequence[int] | NDArray[np.int64] | slice, device: torch.device | None = None) -> Tensor:
        """Images (B, 3, H, W), float32 in [0, 1], of the given positions in the set."""
        chosen = np.ascontiguousarray(self.pixels[self.rows[indices]])
        return torch.from_numpy(chosen).permute(0, 3, 1, 2).to(device).float().div_(255.0)

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> FaceSet:
        """The set of the given positions, in that order; shares the pixels."""
        chosen = np.asarray(indices, dtype=np.int64)
        subjects = None if self.subjects is None else tuple(self.subjects[i] for i in chosen)
        return replace(
            self,
            rows=self.rows[chosen],
            names=tuple(self.names[i] for i in chosen),
            subjects=subjects,
            found=self.found[chosen],
        )


@dataclass(frozen=True, eq=False)
class Pairs:
    """Verification pairs in identity-disjoint folds; indices point into the test `FaceSet`."""

    left: NDArray[np.int64]  #: (P,) the enrolled image
    right: NDArray[np.int64]  #: (P,) the probe
    genuine: NDArray[np.bool_]  #: (P,) True where both show the same person
    fold: NDArray[np.int64]  #: (P,) 0, 1, ...

    def __len__(self) -> int:
        return len(self.left)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a dataset gives: faces to judge with their pairs, and the faces of everybody else, usable as public ones."""

    test: FaceSet
    pairs: Pairs
    public: FaceSet | None


@dataclass(frozen=True, kw_only=True)
class Dataset(ABC):
    """A set of photographs. Loading aligns them once, into the cache folder."""

    @abstractmethod
    def revision(self) -> str:
        """Hash of everything that `load` reads and of every parameter that changes what it returns; never of a place.

        Raises:
            DataError: something is missing; says what, where it was looked for, and how to get it.
        """

    @abstractmethod
    def size(self) -> tuple[int, int]:
        """How many (test, public) images `load` would give, without aligning any; for estimates.

        Raises:
            DataError: as `revision`.
        """

    @abstractmethod
    def load(self, alignment: Alignment, cache: Path) -> Evaluation:
        """Aligned faces and pairs. A set without pairs (public faces only) has `pairs` of length 0.

        Raises:
            DataError: a file is missing, damaged or refused.
        """


# ---------------------------------------------------------------------------------------------------- recognisers


@dataclass(frozen=True)
class Conv:
    """One convolution of the client's extractor, as an architecture diagram would give it."""

    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1


class SplitNetwork(nn.Module):
    """A recognition network cut in two: `client` (E, images to features) and `server` (Psi, features to embedding).

    Args:
        client: E, applied to normalised pixels.
        server: Psi; its output is normalised to unit length here.
        image_size: (height, width).
        layout: the client's convolutions in order (public knowledge: an architecture, no weights).
        mean, scale: the pixel normalisation on [0, 1] images, (x - mean) / scale.
    """

    def __init__(
        self,
        client: nn.Module,
        server: nn.Module,
        *,
        image_size: tuple[int, int],
        layout: tuple[Conv, ...],
        mean: float = 0.5,
        scale: float = 128 / 255,
    ) -> None:
        super().__init__()
        self.client, self.server = client, server
        self.image_size, self.layout = image_size, layout
        self.mean, self.scale = mean, scale

    def extract(self, images: Tensor) -> Tensor:
        """E: images (B, 3, H, W) in [0, 1] to features (B, C, h, w)."""
        features: Tensor = self.client((images - self.mean) / self.scale)
        return features

    def embed(self, features: Tensor) -> Tensor:
        """Psi: features (B, C, h, w) to unit embeddings (B, D)."""
        return nn.functional.normalize(self.server(features))


@dataclass(frozen=True, kw_only=True)
class Recognizer(ABC):
    """A face recogniser: which faces it wants and where its weights are."""

    @property
    @abstractmethod
    def alignment(self) -> Alignment:
        """How faces are cut out for it."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.alignment.size

    @abstractmethod
    def weights_hash(self) -> str:
        """sha256 of the weights, without loading them into a network.

        Raises:
            DataError: no weights; says where they were looked for and how to get them.
        """

    def build(self) -> SplitNetwork:
        """The network untrained, drawing its weights from torch's global generator; for `veilbench train-recognizer`.

        `load` must accept the state dict of what this gives (`bench.recognizers.weights.fill` does).
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be trained: it has no build()")

    @abstractmethod
    def load(self) -> SplitNetwork:
        """The network with its weights, on the CPU, in eval mode.

        Raises:
            DataError: the file is missing, damaged, or holds another architecture.
        """


# ------------------------------------------------------------------------------------------------------- defences


@dataclass(frozen=True, eq=False)
class State:
    """What `fit` learned: named tensors, and a JSON-able account of the fitting (curve, convergence)."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class System:
    """A deployed, defended recognition system."""

    recognizer: SplitNetwork = field(repr=False)
    defense: Defense
    state: Any = field(default=None, repr=False)  #: what `Defense.prepare` made of the fitted state
    device: torch.device = torch.device("cpu")
    server: Any = field(default=None, repr=False)  #: what `Defense.prepare_server` made of what `fit_server` trained
    templates_only: bool = False  #: the server's own training was left out: nobody here asks it to recognise

    def encode(self, images: Tensor) -> Tensor:
        """Client: images (B, 3, H, W) to features."""
        return self.defense.encode(self, images)

    def protect(self, features: Tensor, rng: ImageRng) -> Tensor:
        """Server: features to the templates that it stores."""
        return self.defense.protect(self, features, rng)

    def embed(self, templates: Tensor) -> Tensor:
        """Server: templates to unit embeddings (B, D).

        Raises:
            KnowledgeError: the server's recogniser was left out of this system.
        """
        if self.templates_only:
            raise KnowledgeError("the server's trained recogniser is asked for: declare asks_server = True")
        return self.defense.embed(self, templates)


@dataclass(frozen=True, kw_only=True)
class Defense(ABC):
    """A way to store features. Override the steps that differ; a feature-noise defence overrides `protect` alone.

    What is learned comes in two parts, so that templates and all that is rebuilt from them outlive a change of the
    server: `fit` learns what `encode` and `protect` need, `fit_server` what `embed` alone does.
    """

    randomized: ClassVar[bool] = False  #: the same image protected twice gives two templates
    template_dtype: ClassVar[Literal["float32", "float16"]] = "float32"  #: in which the server stores templates
    #: Fields that change nothing in `fit`, or nothing in the steps up to the stored template (`fit`, `encode`,
    #: `protect`, `prepare`). Settings that differ in these alone share what the step made.
    ignored: ClassVar[Mapping[Literal["fit", "protect"], frozenset[str]]] = {}

    def at(self, step: Literal["fit", "protect"]) -> Self:
        """The plugin as the harness runs this step: what the step ignores stands at its default, and cannot matter."""
        own = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(self)}
        return replace(self, **{name: own[name] for name in self.ignored.get(step, ())})

    @property
    def protect_batch(self) -> int | None:
        """Images protected together, where a template depends on its batch mates; None where it doesn't."""
        return None

    def fit(self, recognizer: SplitNetwork, public: FaceSet, rng: Rng) -> State | None:
        """Learns from the defender's own public faces. Default: nothing to learn."""
        return None

    def prepare(self, recognizer: SplitNetwork, state: State | None) -> Any:
        """Turns the stored state into what `System.state` should hold (say, a network). Default: the state itself."""
        return state

    def fit_server(self, system: System, public: FaceSet, rng: Rng) -> State | None:
        """Learns what `embed` alone needs, on the defender's own public faces. Default: nothing to learn.

        Args:
            system: fitted, without a trained server.
        """
        return None

    def files(self) -> Mapping[str, Path]:
        """What `fit_server` reads from disk, by the field that names it: bytes count as settings, places don't.

        Raises:
            DataError: a file is missing.
        """
        return {}

    def prepare_server(self, recognizer: SplitNetwork, state: State | None) -> Any:
        """Turns what `fit_server` returned into what `System.server` should hold. Default: the state itself."""
        return state

    def encode(self, system: System, images: Tensor) -> Tensor:
        """Client's step: images (B, 3, H, W) in [0, 1] to features. Default: the recogniser's E."""
        return system.recognizer.extract(images)

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """Server's step: features to templates. Default: stores the features. Randomness comes from `rng` alone."""
        return features

    def embed(self, system: System, templates: Tensor) -> Tensor:
        """Server's recognition: templates to unit embeddings (B, D). Default: the recogniser's Psi."""
        return system.recognizer.embed(templates)

    def reference(self, system: System, features: Tensor) -> Tensor:
        """Where the noise starts from, for the record alone. Default: the client's features."""
        return features

    def layout(self, recognizer: SplitNetwork) -> tuple[Conv, ...]:
        """The convolutions of `encode`, which a mirrored decoder reverses. Default: those of the recogniser's E."""
        return recognizer.layout

    def claims(self) -> str:
        """A formal guarantee, in words, where there is one (say, an epsilon). Default: none."""
        return ""


# -------------------------------------------------------------------------------------------------------- attacks


@dataclass(frozen=True, eq=False)
class Leak:
    """What was stolen: one batch of it."""

    values: Tensor = field(repr=False)  #: templates (B, C, h, w), or embeddings (B, D)
    subjects: tuple[str, ...] = field(default=(), repr=False)  #: the database's index of whose they are
    rows: tuple[int, ...] = field(default=(), repr=False)  #: their places in the database
    others: Iterable[Tensor] = field(default=(), repr=False)  #: `copies` - 1 more templates of each image, shaped so


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Someone with a stolen database. `knowledge` is enforced: the oracle refuses what lies above it."""

    leaks: ClassVar[Literal["template", "embedding"]] = "template"
    asks_server: ClassVar[bool] = False  #: steals templates, but asks for embeddings or similarities too
    wants_affine: ClassVar[bool] = False  #: only works where the client's step is an affine map

    @property
    @abstractmethod
    def level(self) -> Knowledge:
        """The declared level of knowledge."""


@dataclass(frozen=True, kw_only=True)
class ReconstructionAttack(Attack):
    """Rebuilds images from templates.

    One that exists at several levels has a field `knowledge` with their names; `bench.toml` then also knows it as
    `NAME@LEVEL`.
    """

    @property
    def base(self) -> ReconstructionAttack | None:
        """The attack that this one goes on from: learned once, whoever else shares it. Default: starts from nothing."""
        return None

    @property
    def asks_surrogate(self) -> bool:
        """Whether `Oracle.surrogate` is asked for: the harness then fits one on the attacker's faces. Default: no."""
        return False

    @property
    def copies(self) -> int:
        """Templates stolen of each image, where the server protects anew each time. Default: the one that is stored."""
        return 1

    @property
    def coupled(self) -> bool:
        """Whether what is rebuilt of one image depends on the others in its batch. Default: no.

        If not, a batch that is too large for the device's memory is taken in halves.
        """
        return False

    def subset(self, defense: Defense) -> int | None:
        """How many images are attacked, where all of them would take too long; None: all. Default: all.

        The harness chooses them: enrolled images of genuine pairs, spread over the folds, the same for every attack.
        """
        return None

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State | None:
        """Learns from the attacker's own public faces and from what the oracle allows. Default: nothing."""
        return None

    def adapt(self, oracle: Oracle, public: FaceSet, rng: Rng, start: State | None) -> State | None:
        """Instead of `fit`, where there is a `base`: goes on from what that learned. Default: leaves it as it is."""
        return start

    def prepare(self, oracle: Oracle, state: State | None) -> Any:
        """Turns the stored state into what `reconstruct` wants. Default: the state itself."""
        return state

    @abstractmethod
    def reconstruct(self, oracle: Oracle, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """Images (B, 3, H, W) from a batch of stolen values; the harness clamps them to [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class LinkageAttack(Attack):
    """Says whose a template is, without a picture: how alike it is to each face of a gallery of named people."""

    asks_server: ClassVar[bool] = True

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State | None:
        """Learns from the attacker's own public faces and from what the oracle allows. Default: nothing."""
        return None

    @abstractmethod
    def score(self, oracle: Oracle, state: State | None, leak: Leak, gallery: FaceSet, rng: ImageRng) -> Tensor:
        """(B, N): the likeness of each stolen value to each face of the gallery; more is more alike.

        `leak.rows` says which of the targets these are, for `Oracle.similarity`.
        """


@dataclass(frozen=True, kw_only=True)
class ReplayAttack(Attack):
    """Presents a reconstruction attack's result to the system, which compares it with what it has stored."""

    attack: str  #: the name, in `bench.toml`, of the reconstruction attack whose images are presented
    present: Literal["image", "template"] = "image"

    @property
    def level(self) -> Knowledge:
        """Injecting what was stolen takes nothing more; for images the wrapped attack's level counts."""
        return Knowledge.BLIND
