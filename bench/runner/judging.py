"""Judges one cell: a defence's utility, a reconstruction's quality or a replay's success, as scores with intervals.

The module exceeds 300 lines because one class judges all kinds of cell, which share owners, decisions and intervals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.contracts import Defense, KeyedAttack, LinkageAttack, ReconstructionAttack, ReplayAttack, TraitAttack
from bench.metrics.bootstrap import measure
from bench.metrics.catalogue import MEAN_INTERVAL, PSNR_CAP_DB, RATE_INTERVAL, SHARE_INTERVAL
from bench.metrics.image import IMAGE_SETTINGS
from bench.metrics.perceptual import Unavailable
from bench.metrics.proportions import CHOSEN_THRESHOLDS, proportion
from bench.metrics.rates import accuracy_share, error_rates
from bench.metrics.verification import FoldAccuracy, Impostors, accepted, fold_accuracy
from bench.plan import Job
from bench.runner import artefacts
from bench.runner.batches import attacked_first
from bench.runner.context import LoadedScene, RunContext
from bench.runner.image_scores import ImageScorer, owners_of
from bench.runner.keyed_judging import judge_crossmatch, judge_inversion, judge_protection, leaks
from bench.runner.pictures import judge_pictures, picture_samples
from bench.runner.second_recognizer import SETTINGS as SECOND
from bench.runner.traits import judge_traits
from bench.seeds import derive_seed
from bench.storage.arrays import Rows, read_state
from bench.storage.records import Measure

_CONVERGED = 0.9  #: a record is flagged as not converged if fewer than this fraction of its images converged
_VANISHED = 1e-10  #: a smaller gradient norm has no effect; a norm larger than its inverse has too much
_NAMED = 5  #: the number of odd files that a record names
_FARS = (1e-1, 1e-2, 1e-3, 1e-4)


@dataclass(frozen=True, eq=False)
class Verdict:
    """The result of judging a cell: its measures, and the scores behind them."""

    metrics: Mapping[str, Measure]
    scores: pd.DataFrame
    samples: Mapping[str, NDArray[Any]] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    noise: Mapping[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


class Judge:
    """Judges the cells of a plan from stored artefacts."""

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self._scorer = ImageScorer(context)

    def judge(self, job: Job) -> Verdict:
        """Judges one cell, whose artefacts exist."""
        by_kind = {
            "utility": self._utility,
            "reconstruction": self._reconstruction,
            "replay": self._replay,
            "linkage": self._linkage,
            "traits": self._traits,
            "protection": self._under_keys,
            "crossmatch": self._under_keys,
            "inversion": self._under_keys,
            "picture": self._under_keys,
        }
        return by_kind[job.cell.kind](job)

    def _measure(self, job: Job, values: NDArray[Any], owners: NDArray[np.object_]) -> Measure:
        # Every cell of a dataset uses the same resamples, so that differences are paired.
        seed = derive_seed("bootstrap", job.cell.dataset)
        resamples = self.context.settings.metrics.bootstrap
        return measure(np.asarray(values, dtype=np.float64), owners, seed=seed, resamples=resamples)

    # --------------------------------------------------------------------------------------------------- utility

    def _embeddings(self, job: Job) -> tuple[NDArray[Any], NDArray[Any]]:
        task = job.need("embeddings")
        assert task is not None
        found = artefacts.Embeddings.read(self.context.ready(task))
        return found.stored, found.probes

    def _decisions(
        self, loaded: LoadedScene, enrolled: NDArray[Any], probes: NDArray[Any]
    ) -> tuple[NDArray[Any], FoldAccuracy]:
        pairs = loaded.pairs
        similarity = (enrolled[pairs.left] * probes[pairs.right]).sum(1)
        valid = loaded.test.found[pairs.left] & loaded.test.found[pairs.right]
        return similarity, fold_accuracy(similarity, pairs.genuine, pairs.fold, valid)

    def _utility(self, job: Job) -> Verdict:
        loaded = self.context.loaded(job.scene)
        stored, probes = self._embeddings(job)
        pairs, owners = loaded.pairs, owners_of(loaded)
        similarity, decisions = self._decisions(loaded, stored, stored)
        raw_similarity, raw_decisions = self._decisions(loaded, stored, probes)
        pair_owners = np.stack([owners[pairs.left], owners[pairs.right]], 1)
        found = loaded.test.found
        impostors = Impostors.among(stored[found], owners[found])
        genuine = pairs.genuine & found[pairs.left] & found[pairs.right]
        metrics = {
            "acc": accuracy_share(decisions, pair_owners, pairs.genuine),
            "acc_raw_probe": accuracy_share(raw_decisions, pair_owners, pairs.genuine),
            **error_rates(similarity[genuine], pair_owners[genuine], impostors, _FARS),
        }
        scores = pd.DataFrame(
            {
                "left": [loaded.test.names[i] for i in pairs.left],
                "right": [loaded.test.names[i] for i in pairs.right],
                "genuine": pairs.genuine,
                "fold": pairs.fold,
                "similarity": similarity,
                "correct": decisions.correct,
                "similarity_raw_probe": raw_similarity,
                "correct_raw_probe": raw_decisions.correct,
            }
        )
        templates = job.need("templates")
        assert templates is not None
        made = read_state(self.context.ready(templates))
        made_info = dict(made.info) if made else {}
        noise = made_info.pop("noise", {})
        costs = self._costs(job, made_info)
        claims = dict(self.context.settings.defenses[job.cell.defense].claims(loaded.network.image_size))
        info = {
            **made_info,
            **self._fit_info(job),
            **({"claims": claims} if claims else {}),
            "costs": costs,
            "thresholds": [round(t, 6) for t in decisions.thresholds],
            "impostor_pairs": len(impostors.similarity),
            "images": len(loaded.test),
            "images_without_a_face": int((~found).sum()),
            "people": len(set(owners)),
            "pairs": len(pairs),
            "public_images": {"defender": len(loaded.defender), "attacker": len(loaded.attacker)},
            "files": {what: {"count": len(some), "files": list(some[:_NAMED])} for what, some in loaded.notes.items()},
        }
        flags = self._defense_flags(job)
        if made_info.get("pairs_sharing_a_batch"):
            flags = (*flags, "a pair's two images were protected in one batch")
        settings = {
            "acc": "10-fold protocol: the threshold is chosen on the other folds"
            + (", or on the same one, there being only one" if decisions.in_sample else ""),
            "eer, tar_at_far": "genuine pairs of the protocol against all cross-identity pairs",
            "interval": f"{SHARE_INTERVAL}; thresholds chosen on other folds: variance times {CHOSEN_THRESHOLDS:g}",
            "interval of eer, tar_at_far": RATE_INTERVAL,
        }
        return Verdict(metrics, scores, None, self._parameters(job), noise, flags, info, settings)

    def _costs(self, job: Job, made: dict[str, Any]) -> dict[str, float]:
        """What the defence costs: bytes, milliseconds an image on either side, seconds of training.

        Takes the times of single steps out of what was noted with the templates. Artefacts of earlier versions lack
        some.
        """
        plugin = self.context.settings.defenses[job.cell.defense]
        costs: dict[str, float] = {"template_bytes": made.get("template_bytes", 0)}
        embeddings = job.need("embeddings")
        assert embeddings is not None
        folder = self.context.ready(embeddings)
        served = read_state(folder) if (folder / "info.json").is_file() else None
        encode, protect = made.pop("encode_ms", None), made.pop("protect_ms", None)
        if encode is not None and protect is not None and served is not None:
            embed = served.info["embed_ms"]
            costs["client_ms"] = round(encode + protect * plugin.client_side, 4)
            costs["server_ms"] = round(protect * (not plugin.client_side) + embed, 4)
        found = self._fit_info(job)
        parts = [found[kind] for kind in ("defense_state", "server_state") if kind in found]
        if all("fit_s" in part for part in parts):
            costs["training_s"] = sum(part["fit_s"] for part in parts)
        return costs

    def _parameters(self, job: Job) -> dict[str, Any]:
        settings = self.context.settings
        found: dict[str, Any] = {"defense": asdict(settings.defenses[job.cell.defense])}
        if job.cell.attack:
            found["attack"] = asdict(settings.attacks[job.cell.attack])
        return found

    def _fit_info(self, job: Job) -> dict[str, Any]:
        """How the fitted parts were trained, and whether the server stores exactly what the client sends."""
        plugin = self.context.settings.defenses[job.cell.defense]
        open_ = type(plugin).protect is Defense.protect and not plugin.has_own_client
        found: dict[str, Any] = {"stores_features": True} if open_ else {}
        for kind in ("defense_state", "server_state", "attack_state"):
            task = job.need(kind)
            state = read_state(self.context.ready(task)) if task else None
            if state is not None and state.info:
                found[kind] = dict(state.info)
        return found

    def _required(self, job: Job) -> dict[str, float]:
        """What the attack must reach on a broken system, where that is not what its kind must."""
        attack = self.context.settings.attacks[job.cell.attack]
        assert isinstance(attack, ReconstructionAttack | LinkageAttack | TraitAttack)
        usual = next(kind for kind in (ReconstructionAttack, LinkageAttack, TraitAttack) if isinstance(attack, kind))
        return {} if attack.required == usual.required else {"required": attack.required}

    def _defense_flags(self, job: Job) -> tuple[str, ...]:
        defense = self.context.settings.defenses[job.cell.defense]
        flags = []
        if defense.randomized:
            flags.append("randomised defence")
        if defense.protect_batch is not None:
            flags.append("batch-coupled defence")
        flags += [
            f"{kind.split('_')[0]} not converged"
            for kind, account in self._fit_info(job).items()
            if isinstance(account, Mapping) and account.get("converged") is False
        ]
        return tuple(flags)

    # -------------------------------------------------------------------------------------------- reconstruction

    def _reconstruction(self, job: Job) -> Verdict:
        loaded = self.context.loaded(job.scene)
        made = job.need("reconstruction")
        assert made is not None
        rebuilt_by = artefacts.Reconstructions.read(self.context.ready(made))
        images, rows = rebuilt_by.images, rebuilt_by.rows
        test = loaded.test.subset(rows)
        owners = owners_of(loaded)[rows]
        second = self._scorer.second(job, loaded)
        table, in_this_crop = self._scorer.scores(job, loaded, images, rows)
        metrics = {name: self._measure(job, table[name].to_numpy(), owners) for name in map(str, table)}
        judged: dict[str, Any] = {}
        if second is not None:
            shares, accepted = second[1].accepted(table["judge_cosine"].to_numpy(), rows)
            metrics |= shares
            table = table.assign(**accepted)
            judged = {"judge": self.context.settings.run.judge}
            # What a perfect reconstruction would reach, which lacks what lies outside its crop.
            if in_this_crop is not None:
                judged["judge_cosine_of_the_original_in_this_crop"] = round(in_this_crop, 4)
        lpips: dict[str, Any] = {}
        if isinstance(self._scorer.lpips, Unavailable):
            metrics["lpips"] = Measure(None, note=f"unavailable: {self._scorer.lpips.reason}")
        else:
            lpips = {"lpips": self._scorer.lpips.settings}
        table.insert(0, "name", list(test.names))
        table.insert(1, "subject", owners)
        settings = {
            **IMAGE_SETTINGS,
            **lpips,
            **(SECOND if second is not None else {}),
            "cosine": "embedding of the reconstruction against the original's, both through the unprotected system",
            "ssim_other": "of the reconstruction with another person's image; a generic face scores no less",
            "interval": MEAN_INTERVAL,
        }
        attacked = read_state(self.context.ready(made))
        info = {**self._fit_info(job), "reconstruction": dict(attacked.info) if attacked else {}, **judged}
        info |= self._required(job)
        samples = self._samples(loaded, images, rows)
        flags = self._defense_flags(job)
        flags += _attack_flags(attacked.info if attacked else {}, metrics)
        return Verdict(metrics, table, samples, self._parameters(job), {}, flags, info, settings)

    def _samples(self, loaded: LoadedScene, images: Rows, rows: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Saves a few reconstructions beside their originals, of different people, the same ones in every cell."""
        owners = owners_of(loaded)
        order = attacked_first(loaded.pairs, len(loaded.test))
        _, first = np.unique(owners[order], return_index=True)
        chosen = order[np.sort(first)][: self.context.settings.run.samples]
        chosen = chosen[np.isin(chosen, rows)]

        def to_bytes(batch: NDArray[Any]) -> NDArray[np.uint8]:
            return np.asarray(np.rint(batch.astype(np.float32) * 255), dtype=np.uint8).transpose(0, 2, 3, 1)

        return {
            "original": to_bytes(loaded.test.batch(chosen).numpy()),
            "reconstruction": to_bytes(images[np.searchsorted(rows, chosen)]),
            "name": np.array([loaded.test.names[i] for i in chosen]),
        }

    # --------------------------------------------------------------------------------------------------- linkage

    def _linkage(self, job: Job) -> Verdict:
        """Closed-set identification of stolen templates (rank 1), and TAR at FAR over all template-photograph pairs."""
        loaded, task, embedded = self.context.loaded(job.scene), job.need("linkage"), job.need("embeddings")
        assert task is not None and embedded is not None
        linked = artefacts.Linkage.read(self.context.ready(task))
        scores, targets, gallery = linked.scores, linked.targets, linked.gallery
        owners = owners_of(loaded)[targets]
        own = np.diagonal(scores)
        # A tie counts as a miss; otherwise a constant score would name everybody correctly.
        rank = 1 + (scores >= own[:, None]).sum(1) - 1
        usable = loaded.test.found[targets] & loaded.test.found[gallery]
        table = pd.DataFrame(
            {
                "name": [loaded.test.names[i] for i in targets],
                "photograph": [loaded.test.names[i] for i in gallery],
                "subject": owners,
                "score": own,
                "rank": rank,
                "rank1": (rank == 1) & usable,
            }
        )
        metrics = {"rank1": proportion(table["rank1"].to_numpy(), owners)}
        metrics |= error_rates(own, owners, Impostors.off_diagonal(scores), _FARS, eer=False)
        # The server's own scores of the same pairs, to show linkage that goes beyond recognition.
        stored, probes = self._embeddings(job)
        login = stored[targets] @ probes[gallery].T
        metrics["rank1_login"] = proportion((login.argmax(1) == np.arange(len(login))) & usable, owners)
        asked = read_state(self.context.ready(task))
        info = {**self._fit_info(job), "gallery": len(gallery), "linkage": dict(asked.info) if asked else {}}
        info |= self._required(job)
        settings = {
            "rank1": "share of stolen templates whose person scores highest in a gallery of one photograph each",
            "rank1_login": "the same by the system's own similarity to unprotected probes: what recognition is for",
            "interval": SHARE_INTERVAL,
            "interval of tar_at_far": RATE_INTERVAL,
        }
        return Verdict(metrics, table, None, self._parameters(job), {}, self._defense_flags(job), info, settings)

    # ---------------------------------------------------------------------------------------------------- traits

    def _traits(self, job: Job) -> Verdict:
        """How well traits are inferred from templates, beside the same attack on clean features."""
        made, plain = job.need("traits"), job.need("clean_traits")
        assert made is not None and plain is not None
        asked, found = {}, []
        for task in (made, plain):
            state = read_state(self.context.ready(task))
            assert state is not None
            asked[task.kind] = dict(state.info)
            found.append(artefacts.read_traits(self.context.ready(task), state.info["traits"]))
        judged = judge_traits(
            self.context.loaded(job.scene),
            *found,
            seed=derive_seed("bootstrap", job.cell.dataset),
            resamples=self.context.settings.metrics.bootstrap,
        )
        info = {**self._fit_info(job), **judged.info, "inferred": asked["traits"], **self._required(job)}
        settings = {
            "trait_accuracy": "balanced accuracy; yes if its probability exceeds its share among the attacker's faces",
            "trait_ece": "expected calibration error of the probability of yes, ten bins of equal width",
            "clean": "the same attack, trained and tested on unprotected features",
            "interval": f"{SHARE_INTERVAL}; of the mean over traits: {MEAN_INTERVAL}",
            "interval of trait_ece": f"{MEAN_INTERVAL}, less its bias",
        }
        flags = (*self._defense_flags(job), *(f"trait void: {name}, {job.cell.attack}" for name in judged.void))
        return Verdict(judged.metrics, judged.scores, None, self._parameters(job), {}, flags, info, settings)

    # ---------------------------------------------------------------------------------------------- keyed defences

    def _under_keys(self, job: Job) -> Verdict:
        """A keyed defence's accuracy and renewability, its unlinkability by one score, or an inversion."""
        loaded = self.context.loaded(job.scene)
        owners = owners_of(loaded)
        protected, crossed, inverted = (job.need(kind) for kind in ("protected", "crossmatch", "inversion"))
        if job.cell.kind == "picture":
            return self._pictures(job)
        assert protected is not None
        found = artefacts.Protected.read(self.context.ready(protected))
        state = read_state(self.context.ready(protected))
        info = dict(state.info) if state else {}

        def mean(values: NDArray[Any], people: NDArray[np.object_]) -> Measure:
            return self._measure(job, values, people)

        if inverted is not None:
            identity, attack = job.need("identity"), self.context.settings.attacks[job.cell.attack]
            assert identity is not None and isinstance(attack, KeyedAttack)
            clean = np.array(artefacts.read_identity(self.context.ready(identity)))
            made = artefacts.read_inversion(self.context.ready(inverted))
            judged = judge_inversion(loaded, found, made, clean, owners, mean, attack)
            state = read_state(self.context.ready(inverted))
            info["inversion"] = dict(state.info) if state else {}
        else:
            assert crossed is not None
            scores = artefacts.Linkage.read(self.context.ready(crossed))
            if job.cell.kind == "protection":
                judged = judge_protection(loaded, found, scores, owners)
            else:
                seed = derive_seed("bootstrap", job.cell.dataset)
                judged = judge_crossmatch(loaded, scores, owners, seed, self.context.settings.metrics.bootstrap)
                if job.cell.attack:
                    state = read_state(self.context.ready(crossed))
                    info |= dict(state.info) if state else {}
                    info["required"] = self.context.settings.attacks[job.cell.attack].required  # type: ignore[attr-defined]
        attacked_by = self.context.settings.attacks.get(job.cell.attack)
        if isinstance(attacked_by, KeyedAttack):
            info["leaks"] = leaks(attacked_by, bool(found.auxiliary))
        return Verdict(
            judged.metrics, judged.scores, None, self._parameters(job), {}, (), {**info, **judged.info}, judged.settings
        )

    def _pictures(self, job: Job) -> Verdict:
        """Faces made of the embeddings that an inversion recovered, beside those made of the true ones."""
        loaded = self.context.loaded(job.scene)
        owners, protected, identity = owners_of(loaded), job.need("protected"), job.need("identity")
        assert protected is not None and identity is not None
        made_from = [task for task in job.needs if task.kind == "pictures"]
        made = {
            "" if task.defense else "plain_": artefacts.Pictures.read(self.context.ready(task)) for task in made_from
        }
        true = next(task for task in made_from if not task.defense)
        made["floor_"] = artefacts.Pictures.floor(self.context.ready(true), len(made[""].embeddings))
        found = artefacts.Protected.read(self.context.ready(protected))
        clean = np.array(artefacts.read_identity(self.context.ready(identity)))

        def mean(values: NDArray[Any], people: NDArray[np.object_]) -> Measure:
            return self._measure(job, values, people)

        judged = judge_pictures(loaded, found, made, clean, owners, mean, self._scorer.second(job, loaded))
        decoder = made_from[0].need("picture_decoder")
        trained, asked = (
            read_state(self.context.ready(task)) if task is not None else None for task in (decoder, made_from[0])
        )
        attack, chosen = self.context.settings.attacks[job.cell.attack], self.context.settings.pictures
        assert isinstance(attack, KeyedAttack) and chosen is not None
        info: dict[str, Any] = {
            "key": attack.knows,
            "decoder": {"label": self.context.settings.run.pictures, **(dict(trained.info) if trained else {})},
            "made": dict(asked.info) if asked else {},
            **({"judge": self.context.settings.run.judge} if self.context.settings.run.judge else {}),
        }
        flags = ("decoder not converged",) if info["decoder"].get("converged") is False else ()
        samples = picture_samples(loaded, np.array(found.targets), made, self.context.settings.run.samples)
        parameters = {**self._parameters(job), "decoder": asdict(chosen)}
        return Verdict(judged.metrics, judged.scores, samples, parameters, {}, flags, info, judged.settings)

    # ---------------------------------------------------------------------------------------------------- replay

    def _replay(self, job: Job) -> Verdict:
        """SRRA (paper 5.1.4): the fraction of genuine pairs for which the replay of the left image is accepted."""
        loaded = self.context.loaded(job.scene)
        attack = self.context.settings.attacks[job.cell.attack]
        assert isinstance(attack, ReplayAttack)
        stored, _ = self._embeddings(job)
        pairs, owners = loaded.pairs, owners_of(loaded)
        _, decisions = self._decisions(loaded, stored, stored)
        shown_task = job.need("login")
        shown_at = artefacts.Login.read(self.context.ready(shown_task)) if shown_task else None
        shown_rows = shown_at.rows if shown_at else pairs.left
        genuine = np.flatnonzero(pairs.genuine & np.isin(pairs.left, shown_rows))
        left, right, fold = pairs.left[genuine], pairs.right[genuine], pairs.fold[genuine]
        presented = shown_at.embeddings if shown_at else stored
        shown = (presented[left] * stored[left]).sum(1), (presented[left] * stored[right]).sum(1)
        # A pair with an image without a face counts as not accepted and stays in the denominator.
        usable = loaded.test.found[left] & loaded.test.found[right]
        success = [accepted(s, fold, decisions.thresholds) & usable for s in shown]
        table = pd.DataFrame(
            {
                "name": [loaded.test.names[i] for i in left],
                "other": [loaded.test.names[i] for i in right],
                "subject": owners[left],
                "similarity1": shown[0],
                "similarity2": shown[1],
                "srra1": success[0],
                "srra2": success[1],
            }
        )
        metrics = {name: proportion(table[name].to_numpy(), owners[left]) for name in ("srra1", "srra2")}
        settings = {
            "srra": "I: against the stored template of the same image; II: of the person's other image",
            "thresholds": [round(t, 6) for t in decisions.thresholds],
            "denominator": f"{len(genuine)} genuine pairs",
            "interval": f"{SHARE_INTERVAL}; thresholds as given",
        }
        info = {"presents": attack.present, "wraps": attack.attack}
        return Verdict(metrics, table, None, self._parameters(job), {}, self._defense_flags(job), info, settings)


def _attack_flags(info: Mapping[str, Any], metrics: Mapping[str, Measure]) -> tuple[str, ...]:
    """Flags from the attack's own report, and for measures that contradict each other."""
    said = {
        "attack not converged": info.get("converged", 1) < _CONVERGED,
        "gradients masked": info.get("gradients_masked", 0) > 0,
        "zero gradients": info.get("gradient_norm", 1) < _VANISHED,
        "exploding gradients": not info.get("gradient_norm", 1) < 1 / _VANISHED,
    }
    mse, psnr = metrics["mse"].value, metrics["psnr_db"].value
    if mse and psnr is not None:
        # By Jensen's inequality, mean PSNR is at least the PSNR of the mean error, unless the cap applies.
        said["metric lint: PSNR below that of the mean error"] = psnr < min(-10 * math.log10(mse), PSNR_CAP_DB) - 1e-6
    return tuple(flag for flag, true in said.items() if true)
