"""Trains what the server recognises with, where a defence changes what it sees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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

#: teacher: the unprotected recogniser's embeddings of the clean images are the targets (1 - cosine); auto: and then,
#: where there are enough people, their identities, if a held-out half says that this helps; identity: with few, too.
Labels = Literal["auto", "identity", "teacher"]

# From fewer people, or fewer images of each, a network learns the people by heart instead of learning to tell apart.
_PEOPLE, _IMAGES = 100, 4
_FEWEST = 4  #: people, or images, that can be divided into those who teach and those who judge
_HELD_OUT = 0.2  #: of the judging half: whom nobody trains on, ever
_MOST_HELD = 100  #: people of them, at most
_SETTLED = 0.1  #: converged: the last round gained less than this share of what all of them did, on held-out people


def _by_people(faces: FaceSet, least: int) -> FaceSet:
    """The images of people who have at least so many."""
    counts = Counter(faces.subjects or ())
    return faces.subset([i for i, who in enumerate(faces.subjects or ()) if counts[who] >= least])


def knows_identities(faces: FaceSet) -> bool:
    """Whether there are enough people with enough images to learn identities from."""
    return len(set(_by_people(faces, _IMAGES).subjects or ())) >= _PEOPLE


def teaching_faces(faces: FaceSet, labels: Labels, limit: int | None, rng: Rng) -> tuple[FaceSet, bool]:
    """At most `limit` faces to learn from, and whether their identities may teach; people stay whole where they do.

    Raises:
        DataError: identities are asked for and nobody has two images.
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
    """A server's network, and how it is taught."""

    module: nn.Module
    encode: Callable[[Tensor], Tensor]
    recognizer: SplitNetwork
    recipe: Recipe
    label: str
    backbone: nn.Module | None  #: rests during `recipe.head_epochs` of the first distillation

    @property
    def device(self) -> torch.device:
        return next(self.recognizer.parameters()).device

    def teacher(self, images: Tensor) -> Tensor:
        """Embeddings of the unprotected recogniser."""
        with torch.no_grad():
            return self.recognizer.embed(self.recognizer.extract(images))

    def distil(self, faces: FaceSet, watched: FaceSet, rng: Rng, new: bool) -> State:
        """A round of distillation; of a `new` network, its new part first."""
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
        """A round of the recipe's own loss; its new classifier first."""
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
        """As many rounds of the recipe as it allows and as help; their accounts."""
        accounts: list[Mapping[str, Any]] = []
        while len(accounts) < self.recipe.rounds and not (accounts and _settled(accounts)):
            turn = rng.child("round", len(accounts))
            if identities:
                accounts.append(self.identify(faces, watched, turn).info)
            else:
                accounts.append(self.distil(faces, watched, turn, new and not accounts).info)
        return accounts

    def judged(self, faces: FaceSet) -> dict[str, float]:
        """EER among people, and the cosine to the unprotected recogniser."""
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
    """Trains `module` in place to embed what `encode` makes of images, and never makes it worse than it starts.

    It is distilled from the recogniser under test. Where identities may teach, that is tried first: both on one half of
    the people, distillation and then identities from there, and the other half says by its EER whether identities are
    better than distillation and than the start. What it chose goes on with everybody, for as many rounds of the recipe
    as help. Every round keeps its best epoch.

    Args:
        faces: what `teaching_faces` chose.
        identities: whether they may teach.
        backbone: the part of `module` that rests during `recipe.head_epochs`.

    Returns:
        Its state dict, with the training's account. `choice`: what those who judged said of the start, of distillation
        and of identities (None: not tried). `cosine_to_unprotected`: how near its embeddings of faces that nobody
        trained on are to those of the unprotected recogniser, before and after. `converged`: the last round hardly
        helped.

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
    """Whether more of the same would hardly help.

    Held-out people saw no gain in the last fifth of the last round, or little in a further round: within one round the
    rate falls to 0, and every curve is flat at its end.
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
    """The images of some people, and about that `share` of all images, of other people (at most `most`, at least one).

    Where hardly anybody is known each image counts as a person.
    """
    known = faces.subjects is not None and len(set(faces.subjects)) >= _FEWEST
    owners = np.array(faces.subjects if known else faces.names)
    people, counts = np.unique(owners, return_counts=True)
    order = rng.numpy().permutation(len(people))
    # Somebody with very many images belongs to those who teach, whatever the share.
    few = counts[order] <= share * len(faces) / 2
    order = order[few] if few.any() else order[np.argsort(counts[order], kind="stable")]
    second = people[order[: max(1, min(most, int((counts[order].cumsum() <= share * len(faces)).sum())))]]
    chosen = np.isin(owners, second)
    return faces.subset(np.flatnonzero(~chosen)), faces.subset(np.flatnonzero(chosen))


def trained_server(module: nn.Module, path: Path) -> State:
    """The state in a file that was trained before.

    Raises:
        DataError: it is damaged, or for another network.
    """
    tensors = read_weights(path)
    load_strictly(module, tensors, path)
    return State(tensors, {"weights": path.name})


def restore_server(module: nn.Module, state: State, device: torch.device) -> nn.Module:
    """The network with its trained weights, in eval mode, frozen."""
    module.load_state_dict(dict(state.tensors))
    return module.to(device).eval().requires_grad_(False)
