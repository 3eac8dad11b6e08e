"""The catalogue of metrics, one row each: heading, format, direction, and the change that counts as a difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Direction = Literal[1, -1]

PSNR_CAP_DB = 100.0  #: dB; the cap for identical images, whose PSNR is infinite

# What a record's settings say about its intervals; part of the key of a cell that has no other statistics.
MEAN_INTERVAL = "95 %, percentiles of the vertex bootstrap over identities"
SHARE_INTERVAL = "95 %, Agresti-Coull, effective size from residuals summed by person"
RATE_INTERVAL = "95 %, both rates' Agresti-Coull intervals carried over (MOVER)"


@dataclass(frozen=True)
class Metric:
    """How one metric is displayed and compared.

    A name that ends in `_` stands for a family: `tar_at_far_` for `tar_at_far_0.01` and `tar_at_far_0.001`.
    """

    name: str  #: its name in a record's `metrics`
    heading: str  #: column heading, with variant and unit
    decimals: int
    better: Direction  #: +1: larger is better for the person who is protected or recognised
    tolerance: float  #: `veilbench compare` ignores differences up to this
    kind: Literal[
        "utility", "reconstruction", "replay", "linkage", "traits", "protection", "crossmatch", "inversion", "picture"
    ]  #: the kind of cell that has it
    group: str = ""  #: the key of its tolerance in `[compare]`, where several metrics share one
    column: str = ""  #: the name of its per-image or per-pair scores, if different
    compared: bool = True  #: whether `veilbench compare` checks it

    @property
    def arrow(self) -> str:
        """An arrow that points in the better direction."""
        return "↑" if self.better > 0 else "↓"

    @property
    def title(self) -> str:
        """The heading with its arrow."""
        return f"{self.heading} {self.arrow}"

    @property
    def key(self) -> str:
        """The key of its tolerance in `[compare]`."""
        return self.group or self.name.rstrip("_")


# `rank1_login` restates the accuracy and `ssim_other` tests attacks, so neither is compared separately.
METRICS = (
    Metric("acc", "ACC", 3, +1, 0.01, "utility", column="correct"),
    Metric("acc_raw_probe", "ACC, raw probe", 3, +1, 0.01, "utility", group="acc", column="correct_raw_probe"),
    Metric("eer", "EER", 3, -1, 0.01, "utility"),
    Metric("tar_at_far_", "TAR at FAR", 3, +1, 0.05, "utility"),
    Metric("ssim", "SSIM (7x7)", 3, -1, 0.02, "reconstruction"),
    Metric("psnr_db", "PSNR dB", 1, -1, 0.5, "reconstruction"),
    Metric("mse", "MSE on [0, 1]", 4, +1, 0.003, "reconstruction"),
    Metric("mae", "MAE on [0, 1]", 4, +1, 0.005, "reconstruction"),
    Metric("lpips", "LPIPS (alex)", 3, +1, 0.02, "reconstruction"),
    Metric("cosine", "cosine", 3, -1, 0.03, "reconstruction"),
    Metric("ssim_other", "SSIM with another face", 3, -1, 0.02, "reconstruction", group="ssim", compared=False),
    Metric("judge_cosine", "judge's cosine", 3, -1, 0.03, "reconstruction"),
    Metric("judge_sar_0.01", "judge's SAR at FMR 1e-2", 3, -1, 0.05, "reconstruction", group="judge_sar"),
    Metric("judge_sar_0.001", "judge's SAR at FMR 1e-3", 3, -1, 0.05, "reconstruction", group="judge_sar"),
    Metric("srra1", "SRRA I", 3, -1, 0.05, "replay", group="srra"),
    Metric("srra2", "SRRA II", 3, -1, 0.05, "replay", group="srra"),
    Metric("rank1", "rank 1", 3, -1, 0.05, "linkage"),
    Metric("rank1_login", "rank 1 by a login", 3, -1, 0.05, "linkage", group="rank1", compared=False),
    Metric("trait_accuracy", "traits, mean balanced accuracy", 3, -1, 0.05, "traits"),
    Metric("trait_accuracy_", "balanced accuracy", 3, -1, 0.08, "traits", group="trait_accuracy", compared=False),
    Metric("trait_ece_", "ECE", 3, +1, 0.05, "traits", compared=False),
    Metric("clean_trait_accuracy", "the same, clean features", 3, +1, 0.05, "traits", compared=False),
    Metric("clean_trait_accuracy_", "balanced accuracy, clean features", 3, +1, 0.05, "traits", compared=False),
    Metric("clean_trait_ece_", "ECE, clean features", 3, -1, 0.05, "traits", compared=False),
    Metric("acc_normal", "ACC, own keys", 3, +1, 0.01, "protection", group="acc"),
    Metric("acc_stolen", "ACC, stolen token", 3, +1, 0.01, "protection", group="acc"),
    Metric("acc_plain", "ACC, unprotected", 3, +1, 0.01, "protection", group="acc", compared=False),
    Metric("eer_normal", "EER, own keys", 3, -1, 0.01, "protection", group="eer"),
    Metric("eer_stolen", "EER, stolen token", 3, -1, 0.01, "protection", group="eer"),
    Metric("eer_plain", "EER, unprotected", 3, -1, 0.01, "protection", group="eer", compared=False),
    Metric("tar_normal_at_far_", "TAR at FAR, own keys", 3, +1, 0.05, "protection", group="tar_at_far"),
    Metric("tar_stolen_at_far_", "TAR at FAR, stolen token", 3, +1, 0.05, "protection", group="tar_at_far"),
    Metric("tar_plain_at_far_", "TAR at FAR, unprotected", 3, +1, 0.05, "protection", compared=False),
    Metric("renewed_", "FMR of renewed templates", 3, -1, 0.02, "protection"),
    Metric("replayed_", "replayed templates accepted", 3, -1, 0.02, "protection"),
    Metric("link_auc", "AUC of linking", 3, -1, 0.05, "crossmatch", group="link"),
    Metric("link_eer", "EER of linking", 3, +1, 0.05, "crossmatch", group="link"),
    Metric("link_tmr_at_fmr_", "TMR of linking at FMR", 3, -1, 0.1, "crossmatch", compared=False),
    Metric("d_sys", "D_sys", 3, -1, 0.05, "crossmatch", group="link"),
    Metric(
        "choice_auc", "AUC of linking, on the half where the best is chosen", 3, -1, 0.1, "crossmatch", compared=False
    ),
    Metric("choice_d_sys", "D_sys, on the half where the best is chosen", 3, -1, 0.1, "crossmatch", compared=False),
    Metric("held_auc", "AUC of linking, on the other half", 3, -1, 0.1, "crossmatch", compared=False),
    Metric("held_d_sys", "D_sys, on the other half", 3, -1, 0.1, "crossmatch", compared=False),
    Metric("max_linkability", "maximal linkability", 3, -1, 0.05, "crossmatch", group="link"),
    Metric("inverted_cosine", "recovered cosine", 3, -1, 0.03, "inversion"),
    Metric("inverted_excess", "the same, minus a stranger's", 3, -1, 0.03, "inversion", compared=False),
    Metric("isr1_", "ISR I", 3, -1, 0.05, "inversion", group="isr"),
    Metric("isr2_", "ISR II", 3, -1, 0.05, "inversion", group="isr"),
    Metric("preimage1_", "pre-image accepted", 3, -1, 0.05, "inversion", group="preimage"),
    Metric("preimage2_", "pre-image accepted, other image", 3, -1, 0.05, "inversion", group="preimage"),
    Metric("preimage_renewed_", "pre-image accepted after renewal", 3, -1, 0.05, "inversion", group="preimage"),
    Metric("picture_ssim", "picture's SSIM (7x7)", 3, -1, 0.02, "picture"),
    Metric("picture_ssim_other", "SSIM with another face", 3, -1, 0.02, "picture", compared=False),
    Metric("picture_cosine", "picture's cosine", 3, -1, 0.03, "picture"),
    Metric("picture_isr1_", "picture accepted, unprotected", 3, -1, 0.05, "picture", group="picture_isr"),
    Metric("picture_isr2_", "the same, other image", 3, -1, 0.05, "picture", group="picture_isr"),
    Metric("picture_login1_", "picture's login", 3, -1, 0.05, "picture", group="picture_login"),
    Metric("picture_login2_", "picture's login, other image", 3, -1, 0.05, "picture", group="picture_login"),
    Metric("picture_judge_cosine", "judge's cosine", 3, -1, 0.03, "picture"),
    Metric("picture_judge_sar_", "judge's SAR at FMR", 3, -1, 0.05, "picture", group="picture_sar"),
    *(
        Metric(f"{prefix}_picture_{name}", f"{heading}, {of}", 3, -1, tolerance, "picture", compared=False)
        for prefix, of in (("plain", "true embedding"), ("floor", "mean face"))
        for name, heading, tolerance in (
            ("ssim", "SSIM", 0.02),
            ("cosine", "cosine", 0.03),
            ("judge_cosine", "judge's cosine", 0.03),
            ("isr1_", "accepted", 0.05),
            ("isr2_", "accepted, other image", 0.05),
            ("judge_sar_", "judge's SAR", 0.05),
        )
    ),
)

_BY_NAME = {metric.name: metric for metric in METRICS}


def find(name: str) -> Metric | None:
    """The row of a metric in a record, families included; None if this version does not have the metric."""
    family = next((m for m in METRICS if m.name.endswith("_") and name.startswith(m.name)), None)
    return _BY_NAME.get(name, family)


def metric(name: str) -> Metric:
    """The row of a metric of this version.

    Raises:
        KeyError: there is no such metric.
    """
    found = find(name)
    if found is None:
        raise KeyError(name)
    return found


def of_kind(kind: str) -> tuple[Metric, ...]:
    """The metrics of a kind of cell, in display order."""
    return tuple(m for m in METRICS if m.kind == kind and m.compared)
