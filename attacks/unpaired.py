"""A thief of the database and nothing else: stolen templates and public faces, no query, no pair of the two."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from bench.contracts import FaceSet, ImageRng, Knowledge, Leak, Oracle, ReconstructionAttack, Rng, State
from bench.toolkit.embedding_training import Recipe
from bench.toolkit.own_recogniser import train_network
from bench.toolkit.unpaired_alignment import aligned

_BATCH = 50
_BYTES = 2**29  #: of stolen templates to read; fewer of large ones
_COLUMNS = 2000  #: unknowns of the map from a template's neighbourhood to pixels: with more channels, no neighbours
_PLACES = 16  #: a template with fewer places has no map to compare with the mean face
_PENALTY = 0.3  #: of the decoder of own embeddings, relative to their mean variance; as ridge regression's


@dataclass(frozen=True, kw_only=True)
class Unpaired(ReconstructionAttack):
    """Feature maps: what turns the mean template into the mean face. Embeddings: an alignment of two clouds.

    Faces are aligned, so the mean of the stolen feature maps and the mean of public faces show the same thing, place by
    place: one pair, with as many equations as places. Ridge regression from a template's neighbourhood (all its
    channels at 3 x 3 places) to the pixels there solves them. The map is then applied to each template by itself. It
    undoes every linear mixing of channels, secret or not, and needs neither people nor photographs in common.

    Embeddings have no places. An own recogniser is trained on public people, the stolen cloud is aligned with its
    cloud (`bench.toolkit.unpaired_alignment`), and a linear decoder of own embeddings rebuilds the face.

    Source: ours. Closest are the unpaired translation of text embeddings (Jha et al., vec2vec, 2025) and
    Wasserstein-Procrustes (Grave et al. 2019), for embeddings.
    """

    asks_stolen: ClassVar[bool] = True
    #: The canary's templates are broken, but no attack without pairs is known to come close to the image.
    required: ClassVar[float] = 0.05

    #: what is stolen
    leaks: Literal["template", "embedding"] = "template"  # type: ignore[misc]
    stolen: int = 1000  #: number of stolen templates to learn from, at most
    penalty: float = 3.0  #: of the regression, relative to a channel's variance over the places of the mean template
    axes: int = 32  #: principal axes of embeddings that are aligned
    #: of the own recogniser, for embeddings
    recipe: Recipe = Recipe(epochs=8, batch=32, learning_rate=2e-3, schedule="cosine", warm_up=0)

    def __post_init__(self) -> None:
        if self.stolen < 4 or self.axes < 1 or self.penalty <= 0:
            raise ValueError("stolen must be at least 4, axes at least 1, and penalty above 0")

    @property
    def level(self) -> Knowledge:
        """Stolen templates and public faces."""
        return Knowledge.DATABASE

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Solves for the map, or trains the own recogniser and aligns the clouds.

        Raises:
            NotApplicable: for vectors, no person has two public faces, so there is nothing to train a recogniser on.
        """
        shape = oracle.stolen(1).shape[1:]
        if len(shape) == 3 and shape[1] * shape[2] >= _PLACES:
            return self._map(oracle, public)
        return self._vectors(oracle, public, rng)

    def _map(self, oracle: Oracle, public: FaceSet) -> State:
        """Ridge regression of the mean face on the mean template, over places."""
        one = oracle.stolen(1)
        taken = oracle.stolen(min(self.stolen, max(4, _BYTES // (4 * one[0].numel()))))
        mean = taken.mean(0, keepdim=True)
        size = 3 if 9 * mean.shape[1] <= _COLUMNS else 1
        seen = functional.unfold(mean, size, padding=size // 2)[0].T.double()  # (places, channels of a neighbourhood)
        finer = max(1, round(oracle.image_size[0] / mean.shape[2]))
        faces = _mean_face(public, oracle.device)[None]
        places = (finer * mean.shape[2], finer * mean.shape[3])
        wanted = functional.pixel_unshuffle(_resized(faces, places), finer)[0].flatten(1).T.double()
        scale = seen.std(0).clamp_min(1e-6 * float(seen.std()) + 1e-12)
        centre, level = seen.mean(0), wanted.mean(0)
        rows = (seen - centre) / scale
        gram = rows.T @ rows
        damped = gram + self.penalty * len(rows) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        weights = torch.linalg.solve(damped, rows.T @ (wanted - level)) / scale[:, None]
        left = (wanted - level - (seen - centre) @ weights).square().mean().sqrt()
        tensors = {
            "weight": weights.T.reshape(-1, mean.shape[1], size, size).float().cpu().contiguous(),
            "bias": (level - centre @ weights).float().cpu(),
            "finer": torch.tensor(finer),
        }
        return State(tensors, {"stolen": len(taken), "mean_face_rmse": round(float(left), 5)})

    def _vectors(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """An own recogniser, the alignment of the stolen vectors with its embeddings, and a linear decoder of these."""
        recipe = replace(self.recipe, loss="softmax+triplet")
        network, trained = train_network(public, recipe, rng, oracle.device, "unpaired: own recogniser")
        account = trained.info
        own, pictures = [], []
        for start in range(0, len(public), _BATCH):
            images = public.batch(slice(start, start + _BATCH), oracle.device)
            with torch.no_grad():
                own.append(functional.normalize(network(images).float()))
            pictures.append(images.flatten(1))
        known, pixels = torch.cat(own), torch.cat(pictures)
        stolen = _unit(oracle.stolen(self.stolen))
        found = aligned(stolen, known, self.axes, rng.child("alignment"))
        centred = (known - known.mean(0)).double()
        gram = centred.T @ centred
        gram += _PENALTY * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        decoder = torch.linalg.solve(gram, centred.T @ (pixels - pixels.mean(0)).double()).float()
        moved = found.linear.to(oracle.device)
        tensors = {
            "weight": (moved @ decoder).cpu().contiguous(),
            "centre": found.means[0].cpu(),
            "bias": (pixels.mean(0) + (found.means[1].to(oracle.device) - known.mean(0)) @ decoder).cpu(),
        }
        eer = (
            {name: value for name, value in account["curve"][-1].items() if name != "loss"} if account["curve"] else {}
        )
        info = {"stolen": len(stolen), "alignment_cost": round(found.cost, 4), **eer, "train_s": account["train_s"]}
        return State(tensors, info)

    def prepare(self, oracle: Oracle, state: State | None) -> dict[str, Tensor]:
        """The map on the oracle's device."""
        if state is None:
            raise ValueError("Unpaired has no trained state")
        return {name: value.to(oracle.device) for name, value in state.tensors.items()}

    def reconstruct(self, oracle: Oracle, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """One linear map; no query."""
        if "finer" not in state:
            images: Tensor = (_unit(leak.values) - state["centre"]) @ state["weight"] + state["bias"]
            return images.reshape(-1, 3, *oracle.image_size)
        made = functional.conv2d(leak.values, state["weight"], state["bias"], padding=state["weight"].shape[-1] // 2)
        return _resized(functional.pixel_shuffle(made, int(state["finer"])), oracle.image_size)


def _mean_face(public: FaceSet, device: torch.device) -> Tensor:
    """(3, H, W)."""
    total = torch.zeros(3, *public.image_size, device=device)
    for start in range(0, len(public), _BATCH):
        total += public.batch(slice(start, start + _BATCH), device).sum(0)
    return total / len(public)


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


def _unit(values: Tensor) -> Tensor:
    return functional.normalize(values.flatten(1).float())
