"""Audits a dump of templates: trains attacks on the client's model, and measures what they reconstruct.

The attacks learn from one part of the public faces. Another part, of other people, is protected in the same way and
attacked too: the figures reached there are the promised ones. If the originals are available, the true figures are
measured as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from bench.contracts import Defense, FaceSet, Knowledge, NotApplicable, ReconstructionAttack, State, System
from bench.errors import DataError, UserError
from bench.metrics.bootstrap import measure
from bench.runner.batches import plain_batches
from bench.runner.held_out import hold_out, nobody, pictures, protected, scored
from bench.runner.standalone import Parts
from bench.runner.standalone_attack import Attacker, differences, measured
from bench.runner.standalone_files import Protected, Rebuilt
from bench.seeds import derive_seed
from bench.settings import registry
from bench.settings.model import Settings

#: What the defence of the simulated system learned: as stored beside the templates, or fitted anew on public faces.
Origin = Literal["learns nothing", "as stored", "simulated"]

_LARGEST = 2 << 30  #: maximum size of a dump in bytes
#: maximum difference of the channels' means from the client's, in standard deviations (median over channels)
_SHIFT = 1.0
_SPREAD = (0.5, 2.0)  #: range of the ratio of standard deviations, dump to client (median over channels)
_DRIFT = 0.2  #: maximum loss of cosine to the stored template, from public faces to the dump


def read_templates(path: Path) -> Protected:
    """Reads a dump: `.npy`, `.safetensors` with one array (or one called `templates`), or a `veilbench protect` folder.

    Raises:
        DataError: it cannot be read, or is not an array (N, C, h, w) of finite numbers.
    """
    names: tuple[str, ...] = ()
    state: State | None = None
    account: Mapping[str, Any] = {}
    try:
        if path.is_dir():
            found = Protected.read(path)
            templates, names, state, account = found.templates, found.names, found.state, found.account
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
    return Protected(templates, names or tuple(f"{i:0{width}}" for i in range(len(templates))), state, account)


def no_defense() -> str:
    """The name of the defence that stores the client's features unchanged."""
    kinds = ((name, registry.find("defense", name, "audit")) for name in registry.names("defense"))
    return next(name for name, kind in kinds if kind.protect is Defense.protect and kind.encode is Defense.encode)


@dataclass(frozen=True, eq=False)
class Audit:
    """The result of an audit."""

    best: str  #: label of the attack with the highest SSIM on held-out public faces
    rebuilt: Rebuilt  #: its reconstructions from the dump
    #: held-out faces and their reconstructions, (M, 3, H, W) in [0, 1]
    samples: tuple[NDArray[np.float32], NDArray[np.float32]]
    account: Mapping[str, Any]  #: JSON-able


def audit(
    settings: Settings, dump: Protected, level: Knowledge, seed: int = 0, originals: FaceSet | None = None
) -> Audit:
    """Runs the settings' attacks of `level` on a dump.

    Args:
        originals: the faces of the dump, in its order; used only to measure.

    Raises:
        UserError: the templates cannot be this client's, no attack fits, or there are too few public faces.
    """
    parts = Parts(settings, seed)
    attacks = _fitting(settings, level)
    unseen = nobody(parts, [f"dump/{name}" for name in dump.names])
    defender, others = parts.public(unseen if originals is None else originals)
    learning, held = hold_out(parts, others)
    findings = _other_accounts(parts, dump)
    state, origin = _fitted(parts, dump, defender, not findings)
    system = parts.system(state)
    own = protected(parts, system, held)
    _refuse_foreign(dump.templates, own, parts)
    findings += _oddities(dump.templates, own)
    attacker = Attacker(parts, state, defender, learning)
    stored = {
        "promised": Protected(own.astype(np.float32), tuple(f"held/{name}" for name in held.names), state, {}),
        "dump": Protected(dump.templates, tuple(f"dump/{name}" for name in dump.names), state, {}),
    }
    results: dict[str, Any] = {}
    made: dict[str, dict[str, NDArray[np.float32]]] = {}
    reached: dict[str, NDArray[np.float64]] = {}
    for label, attack in attacks.items():
        try:
            # Apart, because some attacks estimate the noise from all templates that they get.
            done = {part: attacker.reconstruct(label, attack, templates) for part, templates in stored.items()}
        except NotApplicable as error:
            results[label] = {"skipped": str(error)}
            continue
        made[label] = {part: images for part, (images, _) in done.items()}
        table, figures = scored(parts, made[label]["promised"], held, held.names, learning)
        reached[label] = table["ssim"].to_numpy(np.float64)
        results[label] = {"level": str(attack.level)} | {
            part: {"images": len(images), **_match(parts, system, stored[part].templates, images), "attack": info}
            for part, (images, info) in done.items()
        }
        results[label]["promised"] |= figures
        if originals is not None:
            results[label]["true"] = scored(parts, made[label]["dump"], originals, dump.names, learning)[1]
    if not made:
        told = "; ".join(f"{label}: {result['skipped']}" for label, result in results.items())
        raise UserError(f"no attack has anything to try on {parts.label!r}: {told}")
    common = min(map(len, reached.values()))  # a costly attack takes fewer images than the others
    best = max(reached, key=lambda label: reached[label][:common].mean())
    findings += _drift(results[best])
    account = {
        "templates": {"count": len(dump.names), "shape": list(dump.templates.shape[1:]), "plausible": not findings},
        "findings": findings,
        "level": str(level),
        "system": origin,
        "best": best,
        "attacks": results,
        **parts.identity(),
        "public_faces": {"defender": len(defender), "learning": len(learning), "held_out": len(held)},
        **parts.origin(),
    }
    images = made[best]["dump"]
    rows = range(len(images))
    table = pd.DataFrame({"row": rows, "name": dump.names[: len(images)], "file": [f"images/{i:05}.png" for i in rows]})
    if originals is not None:
        table, _ = measured(parts, table, images, originals.subset(rows), learning)
    return Audit(best, Rebuilt(images, table, {}), (pictures(held), made[best]["promised"]), account)


def _other_accounts(parts: Parts, dump: Protected) -> list[str]:
    """How the settings differ from those in `protect.json`, in sentences."""
    found = []
    for what, name in (("defense", "defence"), ("recognizer", "recogniser")):
        if not dump.account:
            continue
        label = str(dump.account[what]["label"])
        own = parts.label if what == "defense" else parts.recognizer_label
        other = differences(parts, dump, what)  # type: ignore[arg-type]
        if label != own:
            found.append(f"protect.json says that the {name} is {label!r}, and {own!r} is audited")
        elif other:
            found.append(f"protect.json says that the {name} has other settings: {other}")
    return found


def _fitted(parts: Parts, dump: Protected, defender: FaceSet, same: bool) -> tuple[State | None, Origin]:
    """The defence's learned state, and its origin. `same`: the dump was made with these settings."""
    if type(parts.defense).fit is Defense.fit:
        return None, "learns nothing"
    if same and dump.state is not None:
        return dump.state, "as stored"
    kind = type(parts.defense).__name__
    return parts.defense.at("fit").fit(parts.network, defender, parts.rng("fit", kind)), "simulated"


def _drift(result: Mapping[str, Any]) -> list[str]:
    """A finding if reconstructions match their templates much less on the dump than on public faces."""
    both = [result[part].get("match", {}).get("value") for part in ("promised", "dump")]
    drift = both[0] - both[1] if None not in both else 0.0
    if drift <= _DRIFT:
        return []
    return [
        f"what was rebuilt is like its template by {drift:.2f} less than on public faces (cosine of embeddings): "
        "the dump may be of another defence, client or kind of photograph, and reach less than promised"
    ]


def _fitting(settings: Settings, level: Knowledge) -> dict[str, ReconstructionAttack]:
    found = {
        label: attack
        for label, attack in settings.attacks.items()
        if isinstance(attack, ReconstructionAttack)
        and attack.leaks == "template"
        and not attack.parts
        and attack.level == level
        and attack.copies == 1
    }
    if not found:
        raise UserError(f"none of the attacks runs at level {level} on single templates: name one by --attack")
    return found


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
    """How the dump's statistics differ from those of the client's templates of public faces, in sentences."""
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


def _match(parts: Parts, system: System, templates: NDArray[Any], images: NDArray[np.float32]) -> dict[str, Any]:
    """Cosine between the embeddings of stored templates and of their reconstructions; needs no originals.

    Empty for defences with their own `embed`: the auditor does not have their server.
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
