"""Checks of a recogniser, and of a dataset."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from bench.checks.verdict import Verdict, Wrong, sound_parameters, work_off
from bench.contracts import Alignment, Dataset, Recognizer, SplitNetwork
from bench.datasets.protocols import check_pairs
from bench.errors import DataError

_ALIGNMENT = Alignment("margin", (64, 64))


def check_recognizer(recognizer: Recognizer) -> list[Verdict]:
    """Loads it twice and applies it to noise."""

    def network() -> SplitNetwork:
        return recognizer.load()

    def loads() -> str:
        one = network()
        if one.training or tuple(one.image_size) != tuple(recognizer.image_size):
            came = "training mode" if one.training else f"image_size {one.image_size}"
            raise Wrong(f"eval mode and image_size {recognizer.image_size}", came, "End load with .eval().")
        other = network().state_dict()
        if any(not torch.equal(value, other[name]) for name, value in one.state_dict().items()):
            raise Wrong("the same weights each time", "others", "load must fill every weight from the file.")
        if recognizer.weights_hash() != recognizer.weights_hash():
            raise Wrong("the same hash each time", "two", "weights_hash must depend only on the bytes.")
        return f"{sum(p.numel() for p in one.parameters()):,} parameters"

    def shapes() -> str:
        one = network()
        images = torch.rand(3, 3, *one.image_size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            features = one.extract(images)
            embeddings, alone = one.embed(features), one.embed(one.extract(images[:1]))
        if features.ndim != 4 or embeddings.ndim != 2 or len(embeddings) != 3:
            came = f"{tuple(features.shape)} and {tuple(embeddings.shape)}"
            raise Wrong("features (B, C, h, w) and embeddings (B, D)", came, "Split the network behind a convolution.")
        if not torch.isfinite(embeddings).all() or not torch.allclose(embeddings[:1], alone, atol=1e-4):
            raise Wrong("finite embeddings that do not depend on the batch", "others", "Is batch norm in eval mode?")
        return f"features {tuple(features.shape[1:])}, {embeddings.shape[1]}-d embeddings"

    def layout() -> str:
        one = network()
        if not one.layout:
            return "no convolutions declared: mirrored decoders fall back to plain ones"
        with torch.no_grad():
            features = one.extract(torch.zeros(1, 3, *one.image_size))
        side = one.image_size[0]
        for conv in one.layout:
            side = (side + 2 * conv.padding - conv.kernel) // conv.stride + 1
        if one.layout[-1].outputs != features.shape[1] or side != features.shape[2]:
            raise Wrong(
                f"a layout that ends in {tuple(features.shape[1:])}", f"{one.layout[-1].outputs} channels, {side} rows",
                "Declare the client's convolutions in order, poolings as strides.",
            )  # fmt: skip
        return f"{len(one.layout)} convolutions"

    checks = [("parameters", lambda: sound_parameters(recognizer)), ("loads", loads), ("shapes", shapes)]
    return work_off([*checks, ("layout", layout)], {"shapes": "loads", "layout": "shapes"})


def check_dataset(dataset: Dataset) -> list[Verdict]:
    """Loads it twice, at a small size, and checks faces, pairs and people."""

    def revision() -> str:
        if dataset.revision() != dataset.revision():
            raise Wrong("the same revision each time", "two", "Hash exactly what load reads.")
        return dataset.revision()[:12]

    def loads() -> str:
        with tempfile.TemporaryDirectory() as folder:
            found = dataset.load(_ALIGNMENT, Path(folder))
            again = dataset.load(_ALIGNMENT, Path(folder))
            test, public, pairs = found.test, found.public, found.pairs
            sizes = (len(test), 0 if public is None else len(public))
            if dataset.size() != sizes:
                raise Wrong(f"size() of {sizes}", str(dataset.size()), "Count as load does.")
            for name, faces, twin in (("test", test, again.test), ("public", public, again.public)):
                if faces is None or twin is None or not len(faces):
                    continue
                if faces.image_size != _ALIGNMENT.size or faces.pixels.dtype != np.uint8:
                    raise Wrong("uint8 images of the alignment's size", f"{faces.image_size}", "Align every image.")
                if len(set(faces.names)) != len(faces):
                    raise Wrong(f"unique names in the {name} set", "duplicates", "Seeds are derived from names.")
                if faces.names != twin.names or not torch.equal(faces.batch([0]), twin.batch([0])):
                    raise Wrong("the same faces each time", "others", "Loading must not be random.")
            if len(pairs) and (pairs.left.max() >= len(test) or pairs.right.max() >= len(test) or pairs.left.min() < 0):
                raise Wrong("pairs that refer to the test set", "indices outside it", "Count from 0.")
            try:
                check_pairs(pairs, "pair", lambda i: f"pair {i + 1}")
            except DataError as error:
                raise Wrong("valid pairs", str(error), "Correct the protocol.") from error
            for name, faces, told in zip(("test", "public"), (test, public), dataset.known_people(), strict=True):
                if told and faces is not None and set(faces.subjects or ()) != told:
                    odd = min(set(faces.subjects or ()) ^ told)
                    raise Wrong(
                        f"known_people() of the {name} set as in its subjects", f"{odd!r} in one", "Name whom load has."
                    )
            if public is not None and test.subjects and public.subjects:
                both = set(test.subjects) & set(public.subjects)
                if both:
                    raise Wrong(
                        "no person both judged and public", f"{len(both)} people, e.g. {min(both)}", "Separate them."
                    )
            return f"{sizes[0]} to judge in {len(pairs)} pairs, {sizes[1]} public"

    return work_off(
        [("parameters", lambda: sound_parameters(dataset)), ("revision", revision), ("loads", loads)],
        {"loads": "revision"},
    )
