"""Names from rebuilt pictures: compares what another attack rebuilt with photographs, by a recogniser of one's own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from bench.contracts import FaceSet, ImageRng, Knowledge, Leak, LinkageAttack, Oracle, Rng, State
from bench.toolkit.embedding_training import Recipe
from bench.toolkit.own_recogniser import fisher_embeddings, fisherfaces, small_network, train_network

_BATCH = 50


@dataclass(frozen=True, kw_only=True)
class PictureLinkage(LinkageAttack):
    """Links a stolen template to a photograph by the picture that `attack` rebuilt, and asks the system nothing more.

    So it measures names at levels where nobody can log in, such as `database` and `server`, where only pictures would
    be measured otherwise. The recogniser is learned from the attacker's public people alone: Fisherfaces have a closed
    form and bear blurred pictures; a small network is better on sharp ones. It is trained once for all attacks whose
    pictures it compares. With the pictures of `mean_face`, which are all the same, it is its own control: rank 1 must
    be at chance.

    Source: ours; the recogniser is that of Belhumeur et al., Eigenfaces vs. Fisherfaces (IEEE TPAMI 1997).
    """

    asks_server: ClassVar[bool] = False
    #: His own recogniser names far fewer than the system's, from the original photographs too.
    required: ClassVar[float] = 0.1

    attack: str = "unpaired"  #: label of the reconstruction attack, among run.attacks
    #: That of the attack, or above; written NAME@LEVEL in bench.toml.
    knowledge: Literal["blind", "database", "server", "encoder", "algorithm", "enrolment", "whitebox"] = "database"
    recogniser: Literal["fisherfaces", "network"] = "fisherfaces"  #: what compares pictures with photographs
    epochs: int = 20  #: of training the network

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError("epochs must be at least 1")

    @property
    def level(self) -> Knowledge:
        """As `knowledge` says."""
        return Knowledge[self.knowledge.upper()]

    @property
    def parts(self) -> tuple[str, ...]:
        """The attack that rebuilds the pictures."""
        return (self.attack,) if self.attack else ()

    @property
    def base(self) -> PictureLinkage | None:
        """The recogniser, which does not depend on the pictures."""
        base = replace(self, attack="", knowledge="blind")
        return None if base == self else base

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Trains the recogniser.

        Raises:
            NotApplicable: no two public faces are known to show one person.
        """
        if self.recogniser == "fisherfaces":
            return fisherfaces(public, oracle.device)
        recipe = Recipe(epochs=self.epochs, batch=32, learning_rate=2e-3, schedule="cosine", warm_up=0, loss="arcface")
        return train_network(public, recipe, rng, oracle.device, "PictureLinkage: own recogniser")[1]

    def score(self, oracle: Oracle, state: State | None, leak: Leak, gallery: FaceSet, rng: ImageRng) -> Tensor:
        """Cosines (B, N) of the pictures with the gallery's photographs, by the own recogniser."""
        if state is None:
            raise ValueError("PictureLinkage has no trained state")
        photographs = (gallery.batch(slice(i, i + _BATCH), oracle.device) for i in range(0, len(gallery), _BATCH))
        if self.recogniser == "fisherfaces":
            known = torch.cat([fisher_embeddings(state, some) for some in photographs])
            return fisher_embeddings(state, leak.guesses[0]) @ known.T
        with torch.random.fork_rng(devices=[]):
            network = small_network()
        network.load_state_dict(dict(state.tensors))
        network = network.to(oracle.device).eval()
        with torch.no_grad():
            known = torch.cat([functional.normalize(network(some).float()) for some in photographs])
            found: Tensor = functional.normalize(network(leak.guesses[0]).float()) @ known.T
        return found
