"""The common base of defences whose client is trained again, to send less of the face and as much of the person."""

from __future__ import annotations

import copy
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize

from bench.contracts import Defense, FaceSet, Rng, SplitNetwork, State, System
from bench.toolkit.progress import track
from bench.toolkit.recognition_loss import knows_server

#: loss(features, images, people): what the features tell of the images; `people` are the indices of the faces' owners.
Privacy = Callable[[Tensor, Tensor, Tensor], Tensor]

_HELD_OUT = 48  #: maximum number of public faces on which the result is measured, and not trained


@dataclass(frozen=True, kw_only=True)
class TrainedClient(Defense):
    """A client and a server that the defender trained together; the features are stored as the client sends them.

    Both start as the recogniser under test and learn (1 - `weight`) * recognition + `weight` * privacy. Recognition is
    1 - the cosine with the embedding of the recogniser under test (distillation), so no identities are needed for it.
    Privacy is what a subclass says. Batch norm keeps the recogniser's statistics.

    An attacker with a client device has the trained client as a black box: at level `encoder` he sees what is stored.
    A copy that an attacker fits has no server to train; it keeps the features close instead, relative to their size.
    """

    client_side: ClassVar[bool] = True
    adds_noise: ClassVar[bool] = False

    weight: float = 0.5  #: weight of privacy against recognition, at least 0 and below 1
    fit_steps: int = 300  #: training steps
    batch: int = 16  #: images per step
    learning_rate: float = 1e-3  #: of Adam; falls to 0 along a cosine

    def __post_init__(self) -> None:
        if not 0 <= self.weight < 1 or self.learning_rate <= 0:
            raise ValueError("weight must be at least 0 and below 1, and learning_rate above 0")
        if self.fit_steps < 1 or self.batch < 4:
            raise ValueError("fit_steps must be at least 1, and batch at least 4")

    @abstractmethod
    def privacy(self, recognizer: SplitNetwork, shape: Sequence[int], public: FaceSet, rng: Rng) -> Privacy:
        """The loss of a training, with features of `shape` (C, h, w)."""

    def chosen(self, people: NDArray[np.int64], source: np.random.Generator) -> NDArray[np.int64]:
        """The places of a step's faces. Default: at random."""
        return source.choice(len(people), min(self.batch, len(people)), replace=False)

    def fit(self, recognizer: SplitNetwork, public: FaceSet, rng: Rng) -> State:
        """Trains client and server.

        Raises:
            DataError: the subclass needs identities, and there are none.
        """
        device = next(recognizer.parameters()).device
        order = rng.child("held out").numpy().permutation(len(public))
        count = min(_HELD_OUT, max(1, len(public) // 10))
        held, faces = public.subset(np.sort(order[:count])), public.subset(np.sort(order[count:]))
        people = np.unique(np.array(faces.subjects or faces.names), return_inverse=True)[1]
        parts = nn.ModuleDict({"client": copy.deepcopy(recognizer.client)})
        if knows_server(recognizer):
            parts["server"] = copy.deepcopy(recognizer.server)
        parts.to(device).eval().requires_grad_(True)
        with torch.no_grad():
            shape = recognizer.extract(faces.batch(slice(0, 1), device)).shape[1:]
        privacy = self.privacy(recognizer, shape, faces, rng.child("privacy"))
        optimiser = torch.optim.Adam(parts.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.fit_steps)
        source = rng.child("order").numpy()
        losses: list[tuple[float, float]] = []
        started = time.perf_counter()
        for _ in track(range(self.fit_steps), f"training the client of {type(self).__name__}", self.fit_steps):
            places = self.chosen(people, source)
            images = faces.batch(places, device)
            mirrored = torch.from_numpy(source.random(len(images)) < 0.5).to(device)
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
            with torch.enable_grad():
                features = _encoded(parts["client"], recognizer, images)
                kept = _recognition(parts, recognizer, features, images)
                told = privacy(features, images, torch.from_numpy(people[places]).to(device))
                optimiser.zero_grad(set_to_none=True)
                ((1 - self.weight) * kept + self.weight * told).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            losses.append((float(kept.detach()), float(told.detach())))
        fifth = max(1, self.fit_steps // 5)
        ends = {"first": losses[:fifth], "last": losses[-fifth:]}
        info: dict[str, Any] = {
            "steps": self.fit_steps,
            "images": len(faces),
            "recognition_loss": {end: round(mean(loss[0] for loss in some), 5) for end, some in ends.items()},
            "privacy_loss": {end: round(mean(loss[1] for loss in some), 5) for end, some in ends.items()},
            "train_s": round(time.perf_counter() - started, 2),
        }
        with torch.no_grad():
            images = held.batch(slice(0, len(held)), device)
            lost = _recognition(parts.eval(), recognizer, _encoded(parts["client"], recognizer, images), images)
        info["held_out_recognition_loss"] = round(float(lost), 5)
        return State({name: value.detach().cpu().contiguous() for name, value in parts.state_dict().items()}, info)

    def prepare(self, recognizer: SplitNetwork, state: State | None) -> Mapping[str, nn.Module]:
        """`client`, and `server` where it was trained, in eval mode, frozen."""
        if state is None:
            raise ValueError(f"{type(self).__name__} has no trained client")
        device, made = next(recognizer.parameters()).device, {}
        for part, module in (("client", recognizer.client), ("server", recognizer.server)):
            own = {n.removeprefix(f"{part}."): v for n, v in state.tensors.items() if n.startswith(f"{part}.")}
            if own:
                made[part] = copy.deepcopy(module)
                made[part].load_state_dict(own)
                made[part].to(device).eval().requires_grad_(False)
        return made

    def encode(self, system: System, images: Tensor) -> Tensor:
        """The trained client's features."""
        return _encoded(system.state["client"], system.recognizer, images)

    def embed(self, system: System, templates: Tensor) -> Tensor:
        """The server that was trained with the client."""
        server = system.state.get("server")
        return super().embed(system, templates) if server is None else normalize(server(templates))


def _encoded(client: nn.Module, recognizer: SplitNetwork, images: Tensor) -> Tensor:
    features: Tensor = client((images - recognizer.mean) / recognizer.scale)
    return features


def _recognition(parts: nn.ModuleDict, recognizer: SplitNetwork, features: Tensor, images: Tensor) -> Tensor:
    """1 - cosine with the unprotected embedding; without a server, the relative squared distance of the features."""
    with torch.no_grad():
        clean = recognizer.extract(images)
        wanted = recognizer.embed(clean) if "server" in parts else clean
    if "server" in parts:
        return 1 - (normalize(parts["server"](features)) * wanted).sum(1).mean()
    return (features - wanted).square().mean() / wanted.square().mean().clamp_min(1e-12)
