"""The search among rendered people: it comes closer to its targets than the people it begins with."""

import numpy as np
import torch
from torch import Tensor, nn

from attacks.renderer_search import RendererSearch
from bench.checks.scene import Open
from bench.contracts import FaceSet, Knowledge, Leak, Oracle, Rng, SplitNetwork, System

_NOBODY = FaceSet(np.zeros((0, 24, 24, 3), np.uint8), np.arange(0), (), (), np.zeros(0, bool))


class _Colours(nn.Module):
    """Embeds an image by the mean colours of a grid, less those of the average portrait."""

    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(features, 6).flatten(1)


def test_it_comes_closer_than_the_best_of_the_first_people_and_every_image_alone() -> None:
    network = SplitNetwork(nn.Identity(), _Colours(), image_size=(24, 24), layout=()).eval()
    system = System(network, Open(), None, torch.device("cpu"))
    attack = RendererSearch(people=24, generations=3, children=8, parents=3)
    fitting = Oracle(Knowledge.ENROLMENT, system, Rng(0))
    state = attack.fit(fitting, _NOBODY, Rng(0))
    assert fitting.queries["embed_images"] == 24

    targets = nn.functional.normalize(torch.randn(2, 108, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.5)
    oracle = Oracle(Knowledge.ENROLMENT, system, Rng(0))
    images = attack.reconstruct(oracle, state, Leak(targets), Rng(0).images(["a", "b"]))
    assert images.shape == (2, 3, 24, 24)
    assert 0 <= images.min() < images.max() <= 1
    assert oracle.reported["cosine_of_the_search"] > oracle.reported["cosine_of_the_first"]
    reached = (system.embed(system.encode(images)) * targets).sum(1)
    assert abs(float(reached.mean()) - oracle.reported["cosine_of_the_search"]) < 1e-5, "it shows whom it found"
    assert oracle.queries["embed_images"] == 2 * 3 * 8
    alone = attack.reconstruct(
        Oracle(Knowledge.ENROLMENT, system, Rng(0)), state, Leak(targets[1:]), Rng(0).images(["b"])
    )
    torch.testing.assert_close(alone[0], images[1])
