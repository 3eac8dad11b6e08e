"""Checks of a defence: its contract, its randomness, and its independence from the batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from bench.checks.scene import Scene
from bench.checks.verdict import (
    Pointless,
    Verdict,
    Wrong,
    disturb_globals,
    in_float32,
    keep_still,
    sound_parameters,
    stored_state,
    work_off,
)
from bench.contracts import Defense, Rng, State, System

_BATCH = 6
_ODD = (53, 47)
_CLOSE = 1e-3  #: relative tolerance for sums in another order

_FROM_RNG = "Take all randomness from the rng that the step is given."
_ALONE = (
    "Process each image independently; or, if the dependence is intended, declare it with the property protect_batch: "
    "the number of images that are protected together."
)


def check_defense(defense: Defense, scene: Scene) -> list[Verdict]:
    """Runs every check, in order; the last one measures the cost of an image."""
    looks = _Looks(defense, scene)
    checks: list[tuple[str, Callable[[], str | None]]] = [
        ("parameters", lambda: sound_parameters(defense)),
        ("fit", looks.fit),
        ("server", looks.server),
        ("features", looks.features),
        ("templates", looks.templates),
        ("inputs untouched", looks.inputs_untouched),
        ("weights untouched", lambda: scene.refuse_changes(looks.untouched)),
        ("same seed, same template", looks.same_seed),
        ("fresh randomness", looks.fresh_randomness),
        ("batch composition", looks.batch_composition),
        ("batches of one and none", looks.small_batches),
        ("stored precision", looks.stored_precision),
        ("reference", looks.reference),
        ("embeddings", looks.embeddings),
        ("gradient", looks.gradient),
        ("odd sizes", looks.odd_sizes),
        ("holds no state", looks.nothing_kept),
        ("cost", looks.cost),
    ]
    needs = {name: "templates" for name, _ in checks[5:]} | {
        "server": "fit", "features": "server", "templates": "features", "weights untouched": "fit",
        "holds no state": "fit",
        "fresh randomness": "same seed, same template", "batch composition": "same seed, same template",
    }  # fmt: skip
    return work_off(checks, needs)


class _Looks:
    """One defence on one scene, fitted on first use."""

    def __init__(self, defense: Defense, scene: Scene) -> None:
        self.defense, self.scene = defense, scene
        self.images, self.names = scene.images(_BATCH), scene.names(_BATCH)
        self.untouched = scene.weights()

    @cached_property
    def state(self) -> State | None:
        return self.defense.fit(self.scene.network, self.scene.public, Rng(0).child("fit"))

    @cached_property
    def server_state(self) -> State | None:
        return self.defense.fit_server(self.bare, self.scene.public, Rng(0).child("server"))

    @cached_property
    def bare(self) -> System:
        return self.scene.system(self.defense, stored_state(self.state))

    @cached_property
    def system(self) -> System:
        if type(self.defense).fit_server is Defense.fit_server:
            return self.bare
        return self.scene.serving(self.bare, stored_state(self.server_state))

    def encoded(self) -> Tensor:
        system = self.system  # fitted here, where gradients are enabled
        with torch.no_grad():
            return system.encode(self.images)

    def protected(self, features: Tensor, seed: int = 0, first: int = 0) -> Tensor:
        names = self.names[first : first + len(features)]
        with torch.no_grad():
            return self.system.protect(features, Rng(seed).images(names))

    def fit(self) -> str:
        """Fits twice with the same seed and compares the states."""
        if self.state is None:
            return "nothing to learn"
        if not isinstance(self.state, State):
            raise Wrong("a State or None", type(self.state).__name__, "Return State(tensors, info) from fit.")
        stored_state(self.state)
        disturb_globals(1)
        again = self.defense.fit(self.scene.network, self.scene.public, Rng(0).child("fit"))
        if again is None or set(again.tensors) != set(self.state.tensors):
            raise Wrong("the same state with the same seed", "different tensors", _FROM_RNG)
        for name, value in self.state.tensors.items():
            if not torch.equal(value, again.tensors[name]):
                raise Wrong("the same state with the same seed", f"a different {name!r}", _FROM_RNG)
        return f"{len(self.state.tensors)} tensors"

    def server(self) -> str:
        return "nothing to learn" if self.server_state is None else f"{len(self.server_state.tensors)} tensors"

    def features(self) -> str:
        features = self.encoded()
        _look_like(features, self.images, "encode", "(B, C, h, w)", 4)
        return f"{tuple(features.shape[1:])}"

    def templates(self) -> str:
        features = self.encoded()
        templates = self.protected(features)
        _look_like(templates, features, "protect", "(B, C, h, w)", 4)
        return f"{tuple(templates.shape[1:])}, {templates[0].numel() * templates.element_size() / 1e3:.0f} kB per image"

    def inputs_untouched(self) -> None:
        images = self.images.clone()
        features = self.encoded()
        before = features.clone()
        templates = self.protected(features)
        stored = templates.clone()
        with torch.no_grad():
            self.system.embed(templates)
        pairs = (("encode", "images", images, self.images), ("protect", "features", before, features))
        for step, what, was, now in (*pairs, ("embed", "templates", stored, templates)):
            if not torch.equal(was, now):
                raise Wrong(
                    f"{what} unchanged by {step}",
                    "others",
                    f"Work on a copy: {step} must not write to its input.",
                )

    def same_seed(self) -> None:
        features = self.encoded()
        disturb_globals(1)
        one = self.protected(features)
        disturb_globals(2)
        other = self.protected(features)
        if not torch.equal(one, other):
            raise Wrong("the same template with the same seed", _apart(one, other), _FROM_RNG)

    def fresh_randomness(self) -> str:
        features = self.encoded()
        differs = not torch.equal(self.protected(features, seed=0), self.protected(features, seed=1))
        if differs and not self.defense.randomized:
            raise Wrong(
                "the same template with another seed, since randomized = False", "another template",
                "Declare randomized: ClassVar[bool] = True.",
            )  # fmt: skip
        if not self.defense.randomized:
            return "deterministic, as declared"
        generators = Rng(0).images(self.names)
        with torch.no_grad():
            twice = [self.system.protect(features, generators) for _ in range(2)]
        if not differs or torch.equal(*twice):
            raise Wrong(
                "a different template each time, since randomized = True", "the same template",
                "Draw from rng at every call, or declare randomized = False.",
            )  # fmt: skip
        return "randomised, as declared"

    def batch_composition(self) -> str:
        together = self.defense.protect_batch
        if together is not None:
            if together < 1:
                raise Wrong(
                    "protect_batch of at least 1, or None",
                    str(together),
                    "Return the number of images that are protected together.",
                )
            return f"depends on its batch of {together}, as declared"
        features = self.encoded()
        with in_float32():
            whole = self.protected(features)
            alone = torch.cat([self.protected(features[i : i + 1], first=i) for i in range(len(features))])
        # On average: if the defence uses signs of gradients, a few values may always flip.
        apart = float((whole - alone).abs().mean()) / max(float(whole.abs().mean()), 1e-12)
        if apart > _CLOSE:
            raise Wrong("the same template alone as in a batch", f"a difference of {100 * apart:.2g} %", _ALONE)
        return f"within {100 * apart:.1g} %"

    def small_batches(self) -> None:
        for count in (1, 0):
            try:
                with torch.no_grad():
                    features = self.system.encode(self.images[:count])
                    templates = self.system.protect(features, Rng(0).images(self.names[:count]))
                    embeddings = self.system.embed(templates) if count else templates
            except Exception as error:
                came = f"{type(error).__name__}: {error}"
                raise Wrong(f"{count} templates of {count} images", came, "Support every batch size.") from error
            if len(templates) != count or len(embeddings) != count:
                raise Wrong(
                    f"{count} templates of {count} images", str(len(templates)), "Preserve the first dimension."
                )

    def stored_precision(self) -> str:
        templates = self.protected(self.encoded())
        stored = templates.to(getattr(torch, self.defense.template_dtype))
        if not torch.isfinite(stored).all():
            raise Wrong(
                f"templates that {self.defense.template_dtype} can hold", f"up to {float(templates.abs().max()):.3g}",
                "Scale them down, or store them as float32.",
            )  # fmt: skip
        return self.defense.template_dtype

    def reference(self) -> None:
        if not self.defense.adds_noise:
            raise Pointless("it adds no noise: adds_noise = False")
        features = self.encoded()
        with torch.no_grad():
            start = self.defense.reference(self.system, features)
        wanted = self.protected(features).shape
        if start.shape != wanted:
            raise Wrong(
                f"a reference shaped as the template, {tuple(wanted)}", str(tuple(start.shape)),
                "reference is the origin of the noise: return the template without noise.",
            )  # fmt: skip

    def embeddings(self) -> str:
        with torch.no_grad():
            found = self.system.embed(self.protected(self.encoded()))
        if found.ndim != 2 or len(found) != _BATCH:
            raise Wrong("embeddings (B, D)", str(tuple(found.shape)), "Return one row per image.")
        if not torch.isfinite(found).all():
            raise Wrong("finite embeddings", "NaN or infinity", "Look for a division by 0 in embed.")
        lengths = found.norm(dim=1)
        if float((lengths - 1).abs().max()) > 1e-3:
            came = f"{float(lengths.min()):.3g} to {float(lengths.max()):.3g}"
            raise Wrong("embeddings of length 1", came, "End embed with torch.nn.functional.normalize.")
        return f"{found.shape[1]} dimensions"

    def gradient(self) -> str:
        images = self.images.clone().requires_grad_()
        features = self.system.encode(images)
        if not features.requires_grad:
            return "encode passes no gradient: white-box attacks will find their gradients masked"
        (found,) = torch.autograd.grad(features.square().sum(), images)
        if not torch.isfinite(found).all():
            raise Wrong("finite gradients of encode", "NaN or infinity", "Look for a root or a quotient at 0.")
        if not found.any():
            return "the gradient of encode is 0 everywhere: white-box attacks will find their gradients masked"
        return "encode passes gradients"

    def odd_sizes(self) -> str:
        if self.defense.files():
            raise Pointless("its files belong to one recogniser")
        odd = _Looks(self.defense, self.scene.resized(_ODD))
        odd.templates()
        odd.embeddings()
        return f"{_ODD[0]} x {_ODD[1]} pixels"

    def nothing_kept(self) -> None:
        keep_still(self.defense)

    def cost(self) -> str:
        features = self.encoded()
        self.protected(features)
        started = time.perf_counter()
        self.protected(features)
        return f"{1000 * (time.perf_counter() - started) / len(features):.1f} ms per image"


def _look_like(found: Tensor, given: Tensor, step: str, shape: str, dimensions: int) -> None:
    if not isinstance(found, Tensor) or found.ndim != dimensions or len(found) != len(given):
        came = str(tuple(found.shape)) if isinstance(found, Tensor) else type(found).__name__
        raise Wrong(f"{shape} of {len(given)} images from {step}", came, "Return one tensor with one entry per image.")
    if found.dtype != torch.float32:
        raise Wrong(f"float32 from {step}", str(found.dtype).removeprefix("torch."), "End with .float().")
    if not torch.isfinite(found).all():
        raise Wrong(f"finite values from {step}", "NaN or infinity", "Look for a division by 0, or a logarithm of it.")


def _apart(one: Tensor, other: Tensor) -> str:
    return f"a difference of up to {float((one - other).abs().max()):.3g}"
