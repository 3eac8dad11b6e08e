"""Trains the server's network, if a defence changes the server's input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from bench.contracts import FaceSet, Rng, SplitNetwork, State
from bench.errors import DataError
from bench.storage.weights import load_strictly, read_weights
from bench.toolkit.checkpoint import error_of
from bench.toolkit.embedding_training import Recipe, held_out, train_embedding
from bench.toolkit.template_cache import digest

#: Training targets. teacher: the unprotected recogniser's embeddings of the clean images (1 - cosine); auto: then also
#: the
#: identities, if there are enough people and a held-out half shows that they help; identity: the same with few people.
Labels = Literal["auto", "identity", "teacher"]

# With fewer people, or fewer images each, a network memorises the people instead of learning to distinguish them.
_PEOPLE, _IMAGES = 100, 4
_FEWEST = 4  #: minimum number of people, or images, that can be divided into a training and a judging half
_HELD_OUT = 0.2  #: fraction of the judging half that is never trained on
_MOST_HELD = 100  #: maximum number of people in it
_SETTLED = 0.1  #: converged: the last round contributed less than this fraction of the total gain on held-out people


def _by_people(faces: FaceSet, least: int) -> FaceSet:
    """The images of people who have at least so many."""
    counts = Counter(faces.subjects or ())
    return faces.subset([i for i, who in enumerate(faces.subjects or ()) if counts[who] >= least])


def knows_identities(faces: FaceSet) -> bool:
    """Whether there are enough people with enough images to learn from identities."""
    return len(set(_by_people(faces, _IMAGES).subjects or ())) >= _PEOPLE


def teaching_faces(faces: FaceSet, labels: Labels, limit: int | None, rng: Rng) -> tuple[FaceSet, bool]:
    """Selects at most `limit` faces, and says whether to learn from identities; then all images of a person stay
    together.

    Raises:
        DataError: identities are requested and nobody has two images.
    """
    people = sorted(set(faces.subjects or ()))
    rank = {people[i]: place for place, i in enumerate(rng.numpy().permutation(len(people)))}
    whole = faces.subset(sorted(range(len(faces)), key=lambda i: rank[faces.subjects[i]] if faces.subjects else i))
    whole = whole.subset(range(min(len(whole), limit or len(whole))))
    if labels == "identity" and not len(_by_people(whole, 2)):
        raise DataError('no two public faces show one person: identities cannot teach; use "teacher"')
    if labels == "identity" or (labels == "auto" and knows_identities(whole)):
        return whole, True
    return faces.subset(rng.numpy().permutation(len(faces))[:limit]), False


@dataclass(frozen=True)
class _Trainer:
    """A server's network and its training settings."""

    module: nn.Module
    encode: Callable[[Tensor], Tensor]
    recognizer: SplitNetwork
    recipe: Recipe
    label: str
    backbone: nn.Module | None  #: frozen during `recipe.head_epochs` of the first distillation
    taught: dict[str, Tensor] = field(default_factory=dict, repr=False)  #: the teacher's answers, by digests of images

    @property
    def device(self) -> torch.device:
        return next(self.recognizer.parameters()).device

    def teacher(self, images: Tensor) -> Tensor:
        """Embeddings of the unprotected recogniser, computed once for each image that comes again."""
        with torch.no_grad():
            if self.recipe.colour:
                return self.recognizer.embed(self.recognizer.extract(images))
            names = [digest(image) for image in images.cpu()]
            new = [place for place, name in enumerate(names) if name not in self.taught]
            if new:
                answers = self.recognizer.embed(self.recognizer.extract(images[new]))
                self.taught.update(zip([names[place] for place in new], answers, strict=True))
            return torch.stack([self.taught[name] for name in names])

    def distil(self, faces: FaceSet, watched: FaceSet, rng: Rng, new: bool) -> State:
        """One round of distillation; for a `new` network, the new part is trained first."""
        return train_embedding(
            self.module.requires_grad_(True),
            self.encode,
            faces,
            replace(self.recipe, loss="distill"),
            rng,
            self.device,
            self.label,
            teacher=self.teacher,
            backbone=self.backbone if new else None,
            unseen=watched,
        )

    def identify(self, faces: FaceSet, watched: FaceSet, rng: Rng) -> State:
        """One round with the recipe's own loss; the new classifier is trained first."""
        return train_embedding(
            self.module.requires_grad_(True),
            self.encode,
            _by_people(faces, 2),
            self.recipe,
            rng,
            self.device,
            self.label,
            backbone=self.module,
            unseen=watched,
        )

    def rounds(
        self, faces: FaceSet, watched: FaceSet, rng: Rng, *, identities: bool = False, new: bool = False
    ) -> list[Mapping[str, Any]]:
        """Runs rounds of the recipe while they help, up to its limit; returns their logs."""
        accounts: list[Mapping[str, Any]] = []
        while len(accounts) < self.recipe.rounds and not (accounts and _settled(accounts)):
            turn = rng.child("round", len(accounts))
            if identities:
                accounts.append(self.identify(faces, watched, turn).info)
            else:
                accounts.append(self.distil(faces, watched, turn, new and not accounts).info)
        return accounts

    def judged(self, faces: FaceSet) -> dict[str, float]:
        """EER among the people, and mean cosine to the unprotected recogniser."""
        self.module.eval()
        eer = held_out(self.module, self.encode, faces, None, self.device) if faces.subjects else {}
        return eer | held_out(self.module, self.encode, faces, self.teacher, self.device)


def train_server(
    module: nn.Module,
    encode: Callable[[Tensor], Tensor],
    recognizer: SplitNetwork,
    faces: FaceSet,
    identities: bool,
    recipe: Recipe,
    rng: Rng,
    label: str,
    backbone: nn.Module | None = None,
) -> State:
    """Trains `module` in place to embed the output of `encode`; the result is never worse than the start.

    The module is distilled from the recogniser under test. If identities may be used, they are tested first: one half
    of the people serves for distillation and then for training on identities, and the EER on the other half decides
    whether identities are better than distillation and than the start. The chosen method then continues with everybody,
    for as many rounds of the recipe as help. Every round returns its best epoch.

    Args:
        faces: selected by `teaching_faces`.
        identities: whether identities may be used.
        backbone: the part of `module` that is frozen during `recipe.head_epochs`.

    Returns:
        Its state dict, and a log of the training. `choice`: scores of the start, of distillation and of identities on
        the
        judging half (None: not tried). `cosine_to_unprotected`: similarity to the unprotected recogniser's embeddings
        on
        faces that are never trained on, before and after. `converged`: the last round hardly helped.

    Raises:
        DataError: there are too few faces to hold any out.
    """
    if len(faces) < _FEWEST:
        raise DataError(f"{label}: {len(faces)} faces are too few to train on")
    trainer = _Trainer(module.to(next(recognizer.parameters()).device), encode, recognizer, recipe, label, backbone)
    learning, judging = _apart(faces, 0.5, len(faces), rng.child("halves"))
    _, held = _apart(judging, _HELD_OUT, _MOST_HELD, rng.child("held out"))
    out = set(held.names)
    everybody = faces.subset([i for i, name in enumerate(faces.names) if name not in out])
    before, chosen = trainer.judged(held), False
    choice: dict[str, Any] = {}
    if identities:
        choice["start"] = trainer.judged(judging)
        trainer.rounds(learning, held, rng.child("distil a half"), new=True)
        choice["distilled"] = trainer.judged(judging)
        distilled = {name: value.clone() for name, value in module.state_dict().items()}
        trainer.identify(learning, judging, rng.child("identify a half"))
        choice["identities"] = trainer.judged(judging)
        chosen = _better(choice, len(set(judging.subjects or ())))
        if not chosen:
            module.load_state_dict(distilled)
    accounts = trainer.rounds(everybody, held, rng.child("everybody"), identities=chosen, new=not identities)
    after = trainer.judged(held)
    if not identities:
        choice = {"start": before, "distilled": after, "identities": None}
    account = {
        **accounts[-1],
        "curve": [point for account in accounts for point in account["curve"]],
        "train_s": round(sum(account["train_s"] for account in accounts), 2),
        "rounds": [{key: account[key] for key in ("start", "best_epoch")} for account in accounts],
        "converged": _settled(accounts),
        "learned_from": "identities" if chosen else "the unprotected recogniser's embeddings",
        "choice": {**choice, "images": len(judging if identities else held)},
        "cosine_to_unprotected": {
            "before": before["held_out_cosine"],
            "after": after["held_out_cosine"],
            "images": len(held),
        },
    }
    return State({name: value.cpu().contiguous() for name, value in module.state_dict().items()}, account)


def _better(choice: Mapping[str, Mapping[str, float]], people: int) -> bool:
    """Whether identities have a lower EER than distillation and than the start, by more than its standard error."""
    eers = {name: judged.get("held_out_eer") for name, judged in choice.items()}
    told, others = eers["identities"], [eers["start"], eers["distilled"]]
    if told is None:
        return False
    return bool(told + (told * (1 - told) / people) ** 0.5 < min(eer for eer in others if eer is not None))


def _settled(accounts: Sequence[Mapping[str, Any]]) -> bool:
    """Whether further rounds would hardly help.

    True if held-out people saw no gain in the last fifth of the last round, or little in a further round. Within one
    round the learning rate falls to 0, so every curve is flat at its end.
    """
    last = accounts[-1]
    if last["best_epoch"] < 0.8 * len(last["curve"]):
        return True
    if len(accounts) == 1 or not last["start"]:
        return False
    start, before = (error_of(account["start"]) for account in (accounts[0], last))
    now = error_of(last["curve"][last["best_epoch"] - 1])
    return bool(before - now < _SETTLED * (start - now))


def _apart(faces: FaceSet, share: float, most: int, rng: Rng) -> tuple[FaceSet, FaceSet]:
    """Splits off about `share` of the images, of other people (at most `most` people, at least one); returns both
    parts.

    If few identities are known, each image counts as a person.
    """
    known = faces.subjects is not None and len(set(faces.subjects)) >= _FEWEST
    owners = np.array(faces.subjects if known else faces.names)
    people, counts = np.unique(owners, return_counts=True)
    order = rng.numpy().permutation(len(people))
    # A person with very many images always belongs to the first part.
    few = counts[order] <= share * len(faces) / 2
    order = order[few] if few.any() else order[np.argsort(counts[order], kind="stable")]
    second = people[order[: max(1, min(most, int((counts[order].cumsum() <= share * len(faces)).sum())))]]
    chosen = np.isin(owners, second)
    return faces.subset(np.flatnonzero(~chosen)), faces.subset(np.flatnonzero(chosen))


def trained_server(module: nn.Module, path: Path) -> State:
    """Reads a trained state from a file.

    Raises:
        DataError: the file is damaged, or for another network.
    """
    tensors = read_weights(path)
    load_strictly(module, tensors, path)
    return State(tensors, {"weights": path.name})


def restore_server(module: nn.Module, state: State, device: torch.device) -> nn.Module:
    """The network with its trained weights, in eval mode, frozen."""
    module.load_state_dict(dict(state.tensors))
    return module.to(device).eval().requires_grad_(False)
