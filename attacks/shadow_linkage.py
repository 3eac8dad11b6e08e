"""Names for the server's operator: the server recognises stolen templates, and photographs through a shadow client."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from bench.contracts import FaceSet, ImageRng, Knowledge, Leak, LinkageAttack, Oracle, Rng, State
from bench.toolkit.shadow_training import OwnClient, ShadowTraining, taken_templates, train_shadow

_BATCH = 50
_SEEN = 300  #: stolen templates whose mean embedding is taken


@dataclass(frozen=True, kw_only=True)
class ShadowLinkage(LinkageAttack):
    """Links a stolen template to a photograph by the cosine of the server's embeddings of it and of g(photograph).

    g is the client that `shadow_client` trains: one through which the server recognises the attacker's own people. The
    server itself is the recogniser, so no picture is needed. Both kinds of embeddings are taken from their mean: what g
    makes of all faces alike is no part of a name.

    `shuffled` is the control, as in `shadow_client`: it says what the stolen templates' moments are worth without
    training through the server's network, which still recognises both sides in the end. With `shadow.match = 0` as
    well, nothing true is learned, and little may be left: what any map of a photograph keeps of it.

    Source: ours; the shadow client is that of He et al. (ACSAC 2019), see `shadow_client`.
    """

    asks_stolen: ClassVar[bool] = True
    #: Nobody below `encoder` has what a login has.
    required: ClassVar[float] = 0.1

    shuffled: bool = False  #: the control: the server's input channels in a random order
    width: int = 32  #: channels of the shadow client's hidden layers
    stolen: int = 1000  #: number of stolen templates to learn from, at most
    shadow: ShadowTraining = field(default=ShadowTraining())

    def __post_init__(self) -> None:
        if self.width < 4 or self.stolen < 4:
            raise ValueError("width and stolen must be at least 4")

    @property
    def level(self) -> Knowledge:
        """The server's network, and the stolen templates; no client."""
        return Knowledge.SERVER

    @property
    def control(self) -> bool:
        """With shuffled channels."""
        return self.shuffled

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Trains the shadow client.

        Raises:
            NotApplicable: the stolen templates are no feature maps.
        """
        taken = taken_templates(oracle, self.stolen)
        client, account = train_shadow(
            oracle, public, taken, self.width, self.shadow, self.shuffled, rng.child("shadow")
        )
        with torch.no_grad():
            mean = torch.cat([oracle.recognise(some) for some in torch.split(taken[:_SEEN], _BATCH)]).float().mean(0)
        tensors = {name: value.cpu().contiguous() for name, value in client.state_dict().items()}
        return State({**tensors, "mean": mean.cpu()}, {"shadow": account})

    def score(self, oracle: Oracle, state: State | None, leak: Leak, gallery: FaceSet, rng: ImageRng) -> Tensor:
        """Cosines (B, N) of the server's embeddings of templates and of the shadow's, each from their mean."""
        if state is None:
            raise ValueError("ShadowLinkage has no trained state")
        tensors = dict(state.tensors)
        mean = tensors.pop("mean").to(oracle.device)
        with torch.random.fork_rng(devices=[]):
            client = OwnClient(tuple(leak.values.shape[1:]), oracle.image_size, self.width)
        client.load_state_dict(tensors)
        client = client.to(oracle.device).eval()
        photographs = (gallery.batch(slice(i, i + _BATCH), oracle.device) for i in range(0, len(gallery), _BATCH))
        with torch.no_grad():
            known = torch.cat([oracle.recognise(client(some)).float() for some in photographs])
            found = oracle.recognise(leak.values).float()
        return functional.normalize(found - mean) @ functional.normalize(known - known.mean(0)).T
