"""Audits stored templates: trains attacks for the client's model and measures what they rebuild.

The attacks learn from one part of the public faces. Another part, of other people, is protected in the same way and
attacked beside the dump: what is reached there is what the dump promises. Where the originals are at hand, the true
figures stand beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from bench.contracts import Defense, FaceSet, Knowledge, NotApplicable, ReconstructionAttack, System
from bench.errors import DataError, UserError
from bench.metrics.bootstrap import measure
from bench.runner.batches import plain_batches
from bench.runner.defending import protect
from bench.runner.standalone import Parts
from bench.runner.standalone_attack import carried_out, measured
from bench.runner.standalone_files import Protected, Rebuilt
from bench.seeds import derive_seed
from bench.settings import registry
from bench.settings.model import Settings

HELD_OUT = 100  #: public images that figures are promised from, at most
_LARGEST = 2 << 30  #: bytes of a dump
_SHIFT = 1.0  #: standard deviations by which channels' means may differ from the client's own
_SPREAD = (0.5, 2.0)  #: and how many times as wide they may be
_DRIFT = 0.2  #: by how much the cosine to the stored template may be lower on the dump than on public faces


def read_templates(path: Path) -> Protected:
    """A dump: `.npy`, `.safetensors` with one array (or one called `templates`), or what `veilbench protect` wrote.

    Raises:
        DataError: it cannot be read, or holds something else than (N, C, h, w) finite numbers.
    """
    names: tuple[str, ...] = ()
    try:
        if path.is_dir():
            found = Protected.read(path)
            templates, names = found.templates, found.names
        elif path.stat().st_size > _LARGEST:
            raise DataError(f"{path}: {path.stat().st_size:,} bytes; give at most {_LARGEST:,}")
        elif path.suffix.lower() == ".safetensors":
            arrays = load_file(path)
            if len(arrays) != 1 and "templates" not in arrays:
                raise DataError(f"{path}: holds {', '.join(sorted(arrays)) or 'nothing'}; one array is wanted")
            templates = arrays.get("templates", next(iter(arrays.values())))
        else:
            templates = np.load(path, allow_pickle=False)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); give a .npy or .safetensors") from error
    except Exception as error:  # whatever a damaged file makes of its reader
        raise DataError(f"{path}: not a readable .npy or .safetensors of templates ({error})") from error
    if not isinstance(templates, np.ndarray) or templates.ndim != 4 or not len(templates):
        shape = getattr(templates, "shape", None)
        raise DataError(f"{path}: holds {shape}, where templates (N, C, h, w) are wanted")
    if templates.dtype.kind not in "fiu" or not np.isfinite(templates).all():
        raise DataError(f"{path}: holds values that are no finite numbers; templates are stored as floats or integers")
    width = len(str(len(templates)))
    return Protected(templates, names or tuple(f"{i:0{width}}" for i in range(len(templates))), None, {})


def no_defense() -> str:
    """The name of the defence that stores features as the client sends them."""
    kinds = ((name, registry.find("defense", name, "audit")) for name in registry.names("defense"))
    return next(name for name, kind in kinds if kind.protect is Defense.protect and kind.encode is Defense.encode)


@dataclass(frozen=True, eq=False)
class Audit:
    """What an audit found."""

    best: str  #: the attack that reached most on held-out public faces
    rebuilt: Rebuilt  #: what it made of the dump
    samples: tuple[NDArray[np.float32], NDArray[np.float32]]  #: held-out faces and what it made of them, (M, 3, H, W)
    account: Mapping[str, Any]  #: JSON-able


def audit(
    settings: Settings, dump: Protected, level: Knowledge, seed: int = 0, originals: FaceSet | None = None
) -> Audit:
    """Attacks a dump with those attacks of the settings that run at `level`.

    Args:
        originals: the faces of the dump, in its order; for measuring alone.

    Raises:
        UserError: the templates cannot be this client's, no attack fits, or there are too few public faces.
    """
    parts = Parts(settings, seed)
    attacks = _fitting(settings, level)
    judged = originals if originals is not None else _unseen(parts, dump)
    defender, others = parts.public(judged)
    learning, held = _hold_out(parts, others)
    kind = type(parts.defense).__name__
    state = None
    if type(parts.defense).fit is not Defense.fit:
        state = parts.defense.at("fit").fit(parts.network, defender, parts.rng("fit", kind))
    system = parts.system(state)
    own = _protected(parts, system, held)
    _refuse_foreign(dump.templates, own, parts)
    findings = _oddities(dump.templates, own)
    results: dict[str, Any] = {}
    made: dict[str, NDArray[np.float32]] = {}
    for label, attack in attacks.items():
        every = Protected(
            np.concatenate([own.astype(np.float32), dump.templates.astype(np.float32)]),
            (*(f"held/{name}" for name in held.names), *(f"dump/{name}" for name in dump.names)),
            state, {},
        )  # fmt: skip
        try:
            images, info = carried_out(parts, label, attack, every, defender, learning)
        except NotApplicable as error:
            results[label] = {"skipped": str(error)}
            continue
        made[label] = images
        results[label] = {
            "level": str(attack.level),
            "promised": _figures(parts, images[: len(held)], held, held.names, learning)
            | _match(parts, system, own, images[: len(held)]),
            "dump": _match(parts, system, dump.templates, images[len(held) :]),
            **info,
        }
        if originals is not None:
            results[label]["true"] = _figures(parts, images[len(held) :], originals, dump.names, learning)
    if not made:
        told = "; ".join(f"{label}: {result['skipped']}" for label, result in results.items())
        raise UserError(f"no attack has anything to try on {parts.label!r}: {told}")
    best = max(made, key=lambda label: results[label]["promised"]["ssim"]["value"])
    both = [results[best][part].get("match", {}).get("value") for part in ("promised", "dump")]
    drift = both[0] - both[1] if None not in both else 0.0
    if drift > _DRIFT:
        findings.append(
            f"what was rebuilt is like its template by {drift:.2f} less than on public faces (cosine of embeddings): "
            "the dump may be of another defence, client or kind of photograph, and reach less than promised"
        )
    account = {
        "templates": {"count": len(dump.names), "shape": list(dump.templates.shape[1:]), "plausible": not findings},
        "findings": findings,
        "level": str(level),
        "best": best,
        "attacks": results,
        **parts.identity(),
        "public_faces": {"defender": len(defender), "learning": len(learning), "held_out": len(held)},
        **parts.origin(),
    }
    images = made[best][len(held) :]
    table = pd.DataFrame({
        "row": range(len(images)), "name": dump.names, "file": [f"images/{i:05}.png" for i in range(len(images))],
    })  # fmt: skip
    if originals is not None:
        table, _ = measured(parts, table, images, originals, learning)
    return Audit(best, Rebuilt(images, table, {}), (_pictures(held), made[best][: len(held)]), account)


def _fitting(settings: Settings, level: Knowledge) -> dict[str, ReconstructionAttack]:
    found = {
        label: attack
        for label, attack in settings.attacks.items()
        if isinstance(attack, ReconstructionAttack)
        and attack.leaks == "template"
        and not attack.parts
        and attack.level == level
        and attack.copies == 1
        and not attack.coupled
        and all(attack.subset(defense) is None for defense in settings.defenses.values())
    }
    if not found:
        raise UserError(f"none of the attacks runs at level {level} on single templates: name one by --attack")
    return found


def _unseen(parts: Parts, dump: Protected) -> FaceSet:
    blank = np.zeros((0, *parts.network.image_size, 3), dtype=np.uint8)
    names = tuple(f"dump/{name}" for name in dump.names)
    return FaceSet(blank, np.zeros(len(names), dtype=np.int64), names, None, np.ones(len(names), dtype=bool))


def _hold_out(parts: Parts, faces: FaceSet) -> tuple[FaceSet, FaceSet]:
    """Faces to learn from, and at most a fifth of them, of other people, to measure on."""
    people = faces.subjects or faces.names
    order = parts.rng("held out").numpy().permutation(sorted(set(people)))
    wanted = min(HELD_OUT, len(faces) // 5)
    chosen: set[str] = set()
    rows: list[int] = []
    for person in order.tolist():
        if len(rows) >= wanted:
            break
        chosen.add(person)
        rows += [i for i, one in enumerate(people) if one == person]
    rest = [i for i, one in enumerate(people) if one not in chosen]
    if len(rows) < 8 or len(rest) < 16:
        raise UserError(f"{len(faces)} public faces are too few to learn from and to measure on: give 100 or more")
    return faces.subset(rest), faces.subset(sorted(rows)[:wanted])


def _protected(parts: Parts, system: System, faces: FaceSet) -> NDArray[Any]:
    stored: NDArray[Any] | None = None
    rng = parts.rng("protect", type(parts.defense).__name__)
    for batch, _, templates in protect(system, faces, faces.names, rng, None):
        if stored is None:
            stored = np.empty((len(faces), *templates.shape[1:]), dtype=system.defense.template_dtype)
        stored[batch] = templates.float().cpu().numpy()
    assert stored is not None
    return stored


def _refuse_foreign(dump: NDArray[Any], own: NDArray[Any], parts: Parts) -> None:
    there, here = dump.shape[1:], own.shape[1:]
    if there == here:
        return
    turned = " with channels last: transpose them to (N, C, h, w)" if (there[2], *there[:2]) == here else ""
    raise UserError(
        f"these templates cannot be this client's: they are {' x '.join(map(str, there))}{turned}, and "
        f"{parts.recognizer_label!r} under {parts.label!r} stores {' x '.join(map(str, here))}; is it cut elsewhere?"
    )


def _oddities(dump: NDArray[Any], own: NDArray[Any]) -> list[str]:
    """In what the dump differs from what the client gives of public faces."""
    found = []
    axes = (0, 2, 3)
    theirs, ours = dump[:1000].astype(np.float64), own.astype(np.float64)  # the first thousand say enough
    spread = ours.std(axes) + 1e-12
    shift = float(np.median(np.abs(theirs.mean(axes) - ours.mean(axes)) / spread))
    ratio = float(np.median(theirs.std(axes) / spread))
    if shift > _SHIFT or not _SPREAD[0] <= ratio <= _SPREAD[1]:
        found.append(
            f"the channels' means differ from the client's by {shift:.2f} of its standard deviations, and their "
            f"spread is {ratio:.2f} times its own: these are hardly templates of this client and defence"
        )
    low = float(ours.min())
    if low >= 0 and (theirs < low - 1e-6).mean() > 0.001:
        found.append(f"{100 * float((theirs < low - 1e-6).mean()):.1f} % of the values are below {low:g}, which this "
                     "client and defence never give")  # fmt: skip
    return found


def _figures(
    parts: Parts, images: NDArray[np.float32], faces: FaceSet, names: Sequence[str], learning: FaceSet
) -> dict[str, Any]:
    people = faces.subjects
    owners = [f"{person}/{name}" for person, name in zip(people, names, strict=True)] if people else list(names)
    table = pd.DataFrame({"row": range(len(images)), "name": owners})
    return measured(parts, table, images, faces, learning)[1]


def _match(parts: Parts, system: System, templates: NDArray[Any], images: NDArray[np.float32]) -> dict[str, Any]:
    """Cosine between a stored template's embedding and that of what was rebuilt from it: needs no original.

    Of defences that embed templates in the recogniser's own way; empty for others, whose server the auditor has not.
    """
    if type(parts.defense).embed is not Defense.embed:
        return {}
    values = []
    for some in plain_batches(len(images)):
        stored = torch.from_numpy(templates[some]).to(parts.device, torch.float32)
        with torch.no_grad():
            one = system.recognizer.embed(stored)
            other = parts.network.embed(parts.network.extract(torch.from_numpy(images[some]).to(parts.device)))
        values.append((one * other).sum(1).double().cpu().numpy())
    scores = np.concatenate(values)
    owners = np.arange(len(scores)).astype(str).astype(object)
    seed = derive_seed("bootstrap", "audit")
    return {"match": asdict(measure(scores, owners, seed=seed, resamples=parts.settings.metrics.bootstrap))}


def _pictures(faces: FaceSet) -> NDArray[np.float32]:
    return np.concatenate([faces.batch(some).numpy() for some in plain_batches(len(faces))]).astype(np.float32)
