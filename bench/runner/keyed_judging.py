"""Judges the cells of keyed defences as ISO/IEC 24745 asks: accuracy, renewability, unlinkability, inversion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.contracts import KeyedAttack
from bench.metrics.catalogue import MEAN_INTERVAL, RATE_INTERVAL, SHARE_INTERVAL
from bench.metrics.proportions import proportion
from bench.metrics.rates import accuracy_share, error_rates
from bench.metrics.unlinkability import LinkageScores, unlinkability
from bench.metrics.verification import Impostors, fold_accuracy, refused_at
from bench.runner import artefacts
from bench.runner.context import LoadedScene
from bench.seeds import derive_seed
from bench.storage.records import Measure

_FARS = (1e-1, 1e-2, 1e-3, 1e-4)
_FMRS = (1e-2, 1e-3, 1e-4)  #: of the thresholds that a recovered embedding or a renewed template should not pass
_FEWEST = 8  #: people who are divided into halves; three people exceed no null
SCENARIOS = (
    "plain",
    "normal",
    "stolen",
)  #: unprotected; impostors have their own keys; or that of the claimed identity

Means = Callable[[NDArray[Any], NDArray[np.object_]], Measure]  #: the mean of values (N,) of people (N,), with interval


@dataclass(frozen=True, eq=False)
class Judged:
    """What is known of a cell."""

    metrics: Mapping[str, Measure]
    scores: pd.DataFrame
    settings: Mapping[str, Any]
    info: Mapping[str, Any] = field(default_factory=dict)


def judge_protection(
    loaded: LoadedScene, found: artefacts.Protected, crossed: artefacts.Linkage, owners: NDArray[np.object_]
) -> Judged:
    """Accuracy unprotected, with own and with stolen keys; and whether renewed templates still match old ones.

    Args:
        crossed: the scheme's own scores between the two applications.
        owners: (N,) the person of each test image.
    """
    pairs, valid = loaded.pairs, loaded.test.found[loaded.pairs.left] & loaded.test.found[loaded.pairs.right]
    pair_owners = np.stack([owners[pairs.left], owners[pairs.right]], 1)
    people = owners[found.targets]
    metrics: dict[str, Measure] = {}
    for name in SCENARIOS:
        scores, matrix = np.array(found.scores[f"{name}_pairs"]), np.array(found.scores[name])
        decisions = fold_accuracy(scores, pairs.genuine, pairs.fold, valid)
        metrics[f"acc_{name}"] = accuracy_share(decisions, pair_owners, pairs.genuine)
        rates = error_rates(np.diagonal(matrix), people, Impostors.off_diagonal(matrix), _FARS)
        metrics |= {
            f"{figure.replace('tar_', f'tar_{name}_')}": rate for figure, rate in rates.items() if figure != "eer"
        }
        metrics[f"eer_{name}"] = rates["eer"]
    renewed = np.diagonal(np.array(crossed.scores))
    replayed, impostors = np.array(found.scores["replay"]), different(np.array(found.scores["normal"]))
    for name, scores in (("renewed", renewed), ("replayed", replayed)):
        metrics |= accepted_at(name, scores, people, impostors, _FMRS[:2])[0]
    table = pd.concat(
        [
            _pairs_table(loaded, pairs.left, pairs.right, owners, pairs.fold, found.scores, "_pairs"),
            _pairs_table(loaded, *_every(found), owners, None, found.scores, ""),
        ],
        ignore_index=True,
    )
    settings = {
        "acc": "10-fold protocol: the threshold is chosen on the other folds",
        "eer, tar": "one genuine pair per person against all other claimed identities",
        "normal": "an impostor's probe is protected with the impostor's own key",
        "stolen": "it is protected with the key of the claimed identity, as by an impostor who has stolen the token",
        "plain": "the same comparisons of unprotected embeddings",
        "renewed": "share of templates under a renewed key that match the old template of another image of the person, "
        "at the threshold of this FMR in the normal scenario; the FMR itself if renewal works",
        "replayed": "share of stolen templates that are accepted as they are, sent in place of a protected probe, at "
        "the same threshold; one that has not the form of a probe is not accepted",
        "interval": SHARE_INTERVAL,
        "interval of eer, tar": RATE_INTERVAL,
    }
    return Judged(metrics, table, settings)


def judge_crossmatch(
    loaded: LoadedScene, found: artefacts.Linkage, owners: NDArray[np.object_], seed: int, resamples: int
) -> Judged:
    """How well two applications' templates of one person are told from those of two people.

    Args:
        seed: of the shuffles and resamples.
        resamples: number of bootstrap resamples for the intervals.
    """
    scores = np.array(found.scores)
    rows, columns = owners[found.targets], owners[found.gallery]
    left, right = np.repeat(found.targets, len(found.gallery)), np.tile(found.gallery, len(found.targets))
    table = _named(loaded, left, right, owners).assign(score=scores.ravel())
    settings = {
        "link_auc": "probability that two templates of one person score higher than those of two people; .5 is chance",
        "d_sys": "Gomez-Barrero et al. 2018, prior odds 1, from bins of equal mass; above 0 by chance: "
        "compare with the 95 % point when people are shuffled, in info",
        "max_linkability": "Otroshi Shahreza et al. 2023, in bits, from the same bins; likewise",
        "templates": "of two images, under the keys of two applications",
        "choice, held": "the same on two halves of the people: of several scores, the best is chosen on one half and "
        "reported on the other, so that the choice favours nobody",
        "interval of link_eer, link_tmr": RATE_INTERVAL,
    }
    info: dict[str, Any] = {"people": len(rows)}
    if np.ptp(scores) == 0:
        silent = Measure(None, n=len(rows), note="all scores are equal, so they tell nothing")
        names = ("link_auc", "link_eer", "d_sys", "max_linkability")
        return Judged(dict.fromkeys(names, silent), table, settings, info)
    linked = unlinkability(LinkageScores(scores, rows, columns), seed=seed, resamples=resamples)
    metrics = {
        "link_auc": linked.auc,
        "link_eer": linked.rates["eer"],
        "d_sys": linked.d_sys,
        "max_linkability": linked.maximal_linkability,
        **{f"link_{name}": rate for name, rate in linked.rates.items() if name != "eer"},
    }
    nulls = {"d_sys": linked.d_sys_null, "max_linkability": linked.maximal_linkability_null}
    for half, people in _halves(np.intersect1d(rows, columns)).items():
        some, others = np.isin(rows, people), np.isin(columns, people)
        if np.ptp(scores[np.ix_(some, others)]) > 0:
            own = LinkageScores(scores[np.ix_(some, others)], rows[some], columns[others])
            many = (19, 100) if half == "choice" else (999, resamples)
            part = unlinkability(own, seed=seed, permutations=many[0], resamples=many[1])
            if half == "choice":  # only the values count there
                metrics |= {
                    f"choice_{name}": Measure(m.value, n=m.n) for name, m in (("auc", part.auc), ("d_sys", part.d_sys))
                }
            else:
                metrics |= {"held_auc": part.auc, "held_d_sys": part.d_sys}
                nulls["held_d_sys"] = part.d_sys_null
    info |= {"bins": linked.bins, "null": {name: asdict(null) for name, null in nulls.items()}}
    return Judged(metrics, table, settings, info)


def judge_inversion(
    loaded: LoadedScene,
    found: artefacts.Protected,
    inverted: tuple[NDArray[Any], NDArray[Any]],
    clean: NDArray[Any],
    owners: NDArray[np.object_],
    mean: Means,
    attack: KeyedAttack,
) -> Judged:
    """How close recovered embeddings are to the true ones, and which systems accept them.

    Args:
        inverted: recovered embeddings (M, D) of the first targets, and their scores (3, M) with protected templates.
        clean: unprotected embeddings (N, D) of all test images.
    """
    recovered, shown = inverted
    targets, others = found.targets[: len(recovered)], found.gallery[: len(recovered)]
    people = owners[targets]
    own, other, strangers = (
        (recovered * clean[rows]).sum(1).astype(np.float64) for rows in (targets, others, np.roll(targets, 1))
    )
    columns: dict[str, NDArray[Any]] = {"inverted_cosine": own, "inverted_excess": own - strangers}
    metrics = {name: mean(values, people) for name, values in columns.items()}
    columns |= {"cosine_other": other, "preimage_score": shown[0], "preimage_score_other": shown[1]}
    columns |= {"preimage_score_renewed": shown[2]}
    plain = Impostors.among(clean[loaded.test.found], owners[loaded.test.found]).similarity
    stolen = different(np.array(found.scores["stolen"]))
    for name, scores, impostors in (
        ("isr1", own, plain), ("isr2", other, plain), ("preimage1", shown[0], stolen), ("preimage2", shown[1], stolen),
        ("preimage_renewed", shown[2], stolen),
    ):  # fmt: skip
        shares, decided = accepted_at(name, scores, people, impostors, _FMRS)
        metrics, columns = {**metrics, **shares}, {**columns, **decided}
    names = [loaded.test.names[i] for i in targets]
    table = pd.DataFrame({"name": names, "subject": people, **columns})
    settings = {
        "inverted_cosine": "of the recovered embedding with the true one, unprotected",
        "inverted_excess": "the same, minus the cosine with another person's",
        "isr": "accepted by the unprotected system at its threshold of this FMR; 1: same image, 2: another one",
        "preimage": "accepted by the protected system, under the claimed identity's key, at its threshold of this FMR "
        "for stolen tokens; 1: the stolen template, 2: that of another image, with the same key; renewed: that of "
        "another image in the second application, under its key, as after a renewal",
        "impostor pairs": {"isr": len(plain), "preimage": len(stolen)},
        "interval": SHARE_INTERVAL,
        "interval of inverted_cosine": MEAN_INTERVAL,
    }
    return Judged(metrics, table, settings, {"required": attack.required, "key": attack.knows})


def leaks(attack: KeyedAttack, auxiliary: bool) -> list[str]:
    """What an attack was given of a record, for the cell's record.

    Args:
        auxiliary: the defence stores data beside its templates.
    """
    given = {
        f"templates of {attack.records} applications" if attack.records > 1 else "template": True,
        "auxiliary data": auxiliary and attack.steals_auxiliary,
        "key": attack.knows == "leaked",
    }
    return [name for name, leaked in given.items() if leaked]


# ----------------------------------------------------------------------------------------------------------- parts


def different(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Scores (T * (T - 1),) of different people, from a matrix with the same person on the diagonal."""
    return np.asarray(scores[~np.eye(len(scores), dtype=bool)], dtype=np.float64)


def accepted_at(
    name: str, scores: NDArray[Any], people: NDArray[Any], impostors: NDArray[np.float64], fmrs: tuple[float, ...]
) -> tuple[dict[str, Measure], dict[str, NDArray[np.bool_]]]:
    """Shares of scores (T,) above the thresholds of some FMRs, NAME_FMR, and the decisions; a note where too few."""
    figures, decided = {}, {}
    for fmr in fmrs:
        refused = refused_at(impostors, fmr)
        if refused is None:
            note = f"too few impostor pairs ({len(impostors)}) for this rate"
            figures[f"{name}_{fmr:g}"] = Measure(None, n=len(scores), note=note)
            continue
        decided[f"{name}_{fmr:g}"] = np.asarray(scores) > refused
        figures[f"{name}_{fmr:g}"] = proportion(decided[f"{name}_{fmr:g}"], people)
    return figures, decided


def _halves(people: NDArray[np.object_]) -> dict[str, NDArray[np.object_]]:
    """The people (N,) on whom the best score is chosen, and those who are held for its figures; none if too few."""
    if len(people) < _FEWEST:
        return {}
    order = sorted(people, key=lambda person: derive_seed("half", str(person)))
    return {"choice": np.array(order[::2], dtype=object), "held": np.array(order[1::2], dtype=object)}


def _every(found: artefacts.Protected) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Left and right image of each entry of a matrix, row by row."""
    count = len(found.targets)
    return np.repeat(found.targets, count), np.tile(found.gallery, count)


def _named(
    loaded: LoadedScene, left: NDArray[np.int64], right: NDArray[np.int64], owners: NDArray[np.object_]
) -> pd.DataFrame:
    names = np.array(loaded.test.names, dtype=object)
    return pd.DataFrame(
        {
            "left": names[left],
            "right": names[right],
            "left_person": owners[left],
            "right_person": owners[right],
            "mated": owners[left] == owners[right],
        }
    )


def _pairs_table(
    loaded: LoadedScene,
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    owners: NDArray[np.object_],
    fold: NDArray[np.int64] | None,
    scores: Mapping[str, NDArray[Any]],
    suffix: str,
) -> pd.DataFrame:
    """Comparisons with their scores in each scenario; `fold` is -1 for those that are no pair of the protocol."""
    columns = {name: np.array(scores[f"{name}{suffix}"]).ravel() for name in SCENARIOS}
    return _named(loaded, left, right, owners).assign(fold=-1 if fold is None else fold, **columns)
