"""MobileFaceNet at its two widths."""

import pytest
import torch

from bench.recognizers.mobilefacenet import MobileFaceNet


@pytest.mark.parametrize(("width", "shape"), [(96, (128, 56, 48)), (112, (128, 56, 56))])
def test_mobilefacenet_takes_two_widths(width: int, shape: tuple[int, int, int]) -> None:
    recognizer = MobileFaceNet(width=width)
    network = recognizer.build().eval()
    with torch.no_grad():
        features = network.extract(torch.rand(1, 3, *recognizer.image_size))
        assert features.shape[1:] == shape
        assert network.embed(features).shape == (1, 128)
    assert recognizer.alignment.points[0][0] == pytest.approx(30.2946 + (width - 96) / 2)


def test_no_other_width() -> None:
    with pytest.raises(ValueError, match="96, 112"):
        MobileFaceNet(width=100)
