"""Opens a linear secret without a pair: the moments of a stolen database against those of public faces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from bench.contracts import InversionAttack, KeyOracle, NotApplicable, Rng
from bench.toolkit.progress import track

_KEPT = 0.02  #: variance of a direction that is aligned, relative to the largest
_GRID = 2000  #: quantiles that are compared
_RATE, _MOMENTUM = 0.5, 0.9  #: of the steps on rotations
_EARLY = 0.3  #: share of the steps after which all but one start are given up
_JUDGED = 512  #: directions on which the starts are compared
_CAUTION = 4.0  #: divides the log odds of signs, which take matched eigenvectors for exact
_ISOMETRIC = 1e-3  #: largest spread of the templates' lengths that still counts as a rotation
_SOLVED = 1e-9  #: residual of the conjugate gradients, relative to the first


@dataclass(frozen=True, kw_only=True)
class Moments(InversionAttack):
    """Rotates the whole stolen database onto embeddings of public faces; nobody is in both.

    Where everybody has the same secret matrix, the law of the templates is the law of embeddings, turned. The start
    matches the eigenvectors of both covariances by the order of their variances, and their signs by the means and the
    third moments E[(z_i^2 - 1) z_j]. Then gradient steps on the rotation lower the sliced Wasserstein distance: the
    squared difference of the sorted values along random directions.

    The steps keep the rotation's determinant, and end near where the signs at the start lead. With several `starts`,
    the first has the likeliest signs, and the others draw each sign from its posterior, so that uncertain ones change.
    Each goes a part of the steps. The one with the smallest distance, on directions that all of them share, goes the
    rest. With few templates the distance does not tell a right rotation from a wrong one, so the default is one start.

    The templates of a general matrix are made a rotation first: embeddings have length 1, so t A t' = 1 for each
    template t and A = (K' K)^-1, which are linear equations for the D (D + 1) / 2 entries of A. So many templates
    determine it; with fewer, the attack does not apply.

    Source: Wasserstein-Procrustes, as for word embeddings (Grave, Joulin and Berthet, AISTATS 2019), with the sliced
    distance (Bonneel et al., 2015). The start by third moments and the equations of unit length are ours.
    """

    needs_service: ClassVar[bool] = True

    templates: int = 0  #: maximum number of stolen templates; 0: all
    steps: int = 1000  #: on the rotation, after the start
    directions: int = 64  #: random directions in a step
    starts: int = 1  #: number of sign patterns; all but the best are given up early

    def __post_init__(self) -> None:
        if min(self.templates, self.steps) < 0 or min(self.directions, self.starts) < 1 or self.key != "own":
            raise ValueError("templates and steps must be at least 0, directions and starts at least 1, no key leaks")

    @property
    def knows(self) -> Literal["none"]:
        """No key."""
        return "none"

    def invert(self, oracle: KeyOracle, templates: Tensor, rng: Rng) -> Tensor:
        """All templates at once, by the rotation that fits the database."""
        if templates.flatten(1).shape[1] != oracle.width:
            raise NotApplicable(f"templates of {templates[0].numel()} entries are no rotation of {oracle.width}")
        stolen = torch.cat([_numbers(templates), _numbers(oracle.others())])
        stolen = stolen[: self.templates or len(stolen)]
        law = oracle.public.double()
        if min(len(law), len(stolen)) <= oracle.width:
            raise NotApplicable(f"{len(stolen)} templates and {len(law)} own faces are too few for their covariances")
        turn = _to_rotation(stolen)
        stolen, wanted = stolen @ turn, _numbers(templates) @ turn
        return self._aligned(law, stolen, wanted, rng)

    def _aligned(self, law: Tensor, stolen: Tensor, wanted: Tensor, rng: Rng) -> Tensor:
        """Embeddings (B, D) of wanted templates, from embeddings (N, D) and rotated ones (M, D)."""
        mean, variance, axes = _principal(law)
        centre, spread, turned = _principal(stolen)
        kept = int((variance > _KEPT * variance[0]).sum())
        axes, turned, variance, spread = axes[:, :kept], turned[:, :kept], variance[:kept], spread[:kept]
        known, unknown = (law - mean) @ axes, (stolen - centre) @ turned
        drift = (mean @ axes) * (centre @ turned) / (variance * (1 / len(law) + 1 / len(stolen)))
        log_odds = _log_odds(known / variance.sqrt(), unknown / spread.sqrt(), drift)
        rotation = self._rotation(log_odds, known.float(), unknown.float(), rng)
        return mean + (wanted - centre) @ turned @ rotation.T @ axes.T

    def _rotation(self, log_odds: Tensor, known: Tensor, unknown: Tensor, rng: Rng) -> Tensor:
        """The rotation (R, R) of unknown (M, R) onto known (N, R) that the best of several starts leads to."""
        drawn = torch.rand(self.starts - 1, len(log_odds), generator=rng.child("signs").torch()).to(log_odds)
        patterns = [log_odds >= 0, *(drawn < torch.sigmoid(log_odds / _CAUTION))]
        starts = [torch.diag(torch.where(pattern, 1.0, -1.0)).to(known) for pattern in patterns]
        early = round(_EARLY * self.steps) if self.starts > 1 else 0
        found = [self._refined(start, known, unknown, early, rng.child("start")) for start in starts]
        if self.starts > 1:
            distances = [_distance(rotation, known, unknown, rng.child("judge")) for rotation in found]
            best = found[distances.index(min(distances))]
        else:
            best = found[0]
        return self._refined(best, known, unknown, self.steps - early, rng.child("directions")).double()

    def _refined(self, rotation: Tensor, known: Tensor, unknown: Tensor, steps: int, rng: Rng) -> Tensor:
        """The rotation (R, R) of unknown (M, R) after steps that lower its distance to known (N, R)."""
        generator, size = rng.torch(), len(rotation)
        unit = float(known.square().mean())
        found, speed = rotation, torch.zeros_like(rotation)
        identity = torch.eye(size).to(rotation)
        for step in track(range(steps), "rotating the database", steps):
            slopes = _slopes(size, self.directions, generator).to(rotation)
            found.requires_grad_()
            (gradient,) = torch.autograd.grad(_apart(found, known, unknown, slopes) * size / unit, found)
            found = found.detach()
            speed = _MOMENTUM * speed + (gradient @ found.T - found @ gradient.T) / 2
            half = _RATE * (1 - step / steps) / 2 * speed
            found = torch.linalg.solve(identity + half, (identity - half) @ found)  # Cayley: stays orthogonal
        return found


def _slopes(size: int, count: int, generator: torch.Generator) -> Tensor:
    """Random directions (R, count)."""
    return functional.normalize(torch.randn(size, count, generator=generator), dim=0)


def _apart(rotation: Tensor, known: Tensor, unknown: Tensor, slopes: Tensor) -> Tensor:
    """The mean squared difference between quantiles of known (N, R) and of turned unknown (M, R) along directions."""
    grid = torch.linspace(0, 1, _GRID)
    here, there = ((grid * (len(part) - 1)).round().long().to(known.device) for part in (known, unknown))
    seen, shown = (known @ slopes).sort(0).values[here], (unknown @ rotation.T @ slopes).sort(0).values[there]
    return (seen - shown).square().mean()


def _distance(rotation: Tensor, known: Tensor, unknown: Tensor, rng: Rng) -> float:
    """The sliced Wasserstein distance, on directions that are the same for every rotation."""
    slopes = _slopes(len(rotation), _JUDGED, rng.torch()).to(rotation)
    return float(_apart(rotation, known, unknown, slopes))


def _numbers(templates: Tensor) -> Tensor:
    """Templates (B, L) as numbers; bits count as -1 and 1, scaled to length 1."""
    rows = templates.flatten(1).double()
    return (2 * rows - 1) / rows.shape[1] ** 0.5 if templates.dtype == torch.bool else rows


def _principal(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(mean, variances, directions as columns), the largest variance first."""
    values, vectors = torch.linalg.eigh(torch.cov(rows.T))
    return rows.mean(0), values.flip(0), vectors.flip(1)


def _log_odds(known: Tensor, unknown: Tensor, drift: Tensor) -> Tensor:
    """Log odds (R,) that a direction of unknown (M, R) has the sign of that of known (N, R), both of variance 1."""
    third = [(rows.square() - 1).T @ rows / len(rows) for rows in (known, unknown)]
    odds: Tensor = 2 * ((third[0] * third[1]).sum(0) / (2 / len(known) + 2 / len(unknown)) + drift)
    return odds


def _to_rotation(stolen: Tensor) -> Tensor:
    """A matrix (D, D) after which templates (M, D) have length 1.

    Raises:
        NotApplicable: they have other lengths now, and there are too few to determine it.
    """
    width, lengths = stolen.shape[1], stolen.norm(dim=1)
    if float(lengths.std() / lengths.mean()) < _ISOMETRIC:
        made: Tensor = torch.eye(width, dtype=stolen.dtype) / lengths.mean()
        return made
    unknowns = width * (width + 1) // 2
    if len(stolen) < unknowns:
        raise NotApplicable(
            f"templates have different lengths, so the matrix is general: {unknowns} templates determine it up to a "
            f"rotation, and there are {len(stolen)}"
        )
    values, vectors = torch.linalg.eigh(stolen.T @ stolen / len(stolen))
    whitening = vectors * values.clamp_min(1e-12 * float(values[-1])).rsqrt()
    rows = stolen @ whitening
    form, target = torch.eye(width, dtype=stolen.dtype) / width, torch.ones(len(rows), dtype=stolen.dtype)
    residual = _sums(rows, target - _forms(rows, form))
    direction, size = residual, residual.square().sum()
    for _ in range(20 * width):  # conjugate gradients on the normal equations
        curved = _sums(rows, _forms(rows, direction))
        step = size / (direction * curved).sum()
        form, residual = form + step * direction, residual - step * curved
        size, before = residual.square().sum(), size
        if float(size) < _SOLVED**2:
            break
        direction = residual + size / before * direction
    values, vectors = torch.linalg.eigh((form + form.T) / 2)
    turning: Tensor = whitening @ vectors * values.clamp_min(0).sqrt()
    return turning


def _forms(rows: Tensor, form: Tensor) -> Tensor:
    """r A r' (M,) of rows (M, D)."""
    return ((rows @ form) * rows).sum(1)


def _sums(rows: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean of r' r, (D, D)."""
    found: Tensor = (rows * weights[:, None]).T @ rows / len(rows)
    return found
