"""Columns of the leaderboard: what each is called, what it says, and how it is printed."""

from __future__ import annotations

from dataclasses import dataclass

from bench.metrics.catalogue import metric


@dataclass(frozen=True)
class Column:
    """One column. The frame has NAME, and NAME_low and NAME_high where there is an interval."""

    name: str
    heading: str
    decimals: int
    says: str  #: what a reader who knows nothing else must be told
    interval: bool = True
    narrow: str = ""  #: a heading for a printed page; empty: left out there


def _of(name: str, of: str, heading: str, says: str, narrow: str = "") -> Column:
    """A column that shows a metric of the catalogue; `{}` in its heading stands for the metric's."""
    shown = metric(of)
    return Column(name, f"{heading.format(shown.heading)} {shown.arrow}", shown.decimals, says, True, narrow)


COLUMNS = (
    _of("acc", "acc", "{}", "verification accuracy, both sides protected", "ACC ↑"),
    _of("acc_raw_probe", "acc_raw_probe", "{}", "accuracy with an unprotected probe"),
    _of("worst_ssim", "ssim", "worst {}", "SSIM of the attack that rebuilds most; ≥: an attack is missing", "SSIM ↓"),
    _of("worst_psnr_db", "psnr_db", "{}", "of that attack", "PSNR dB ↓"),
    _of("worst_cosine", "cosine", "{}", "of the rebuilt face's embedding with the original's, that attack", "cosine ↓"),
    _of(
        "worst_judge_cosine", "judge_cosine", "{}",
        "as the cosine, by a recogniser that nobody attacked (`run.judge`)",
    ),
    _of("worst_lpips", "lpips", "{}", "of that attack, AlexNet", "LPIPS ↑"),
    _of("encoder_ssim", "ssim", "up to encoder: SSIM", "of the best attack at the AdvFace paper's level", "encoder"),
    _of(
        "algorithm_ssim", "ssim", "up to algorithm",
        "SSIM of the best attack that knows at most the defence's algorithm", "algorithm",
    ),
    _of(
        "enrolment_ssim", "ssim", "up to enrolment",
        "SSIM of the best attack that at most enrols faces of its own", "enrolment",
    ),
    _of(
        "whitebox_ssim", "ssim", "up to whitebox", "SSIM of the best attack of all, gradients included", "white box"
    ),
    _of(
        "bound_ssim", "ssim", "oracle bound SSIM",
        "per image the best of all attacks: what no single attacker reaches", "bound",
    ),
    Column(
        "best_known_ssim", "best known elsewhere: SSIM", 3,
        "published SSIM on the same defence, other data; never ranked", interval=False,
    ),
    Column("blind_ssim", "blind floor SSIM", 3, "SSIM of the best guess that never looked", narrow="blind floor"),
    _of("srra1", "srra1", "{}", "how often the rebuilt face is accepted against the same image's template", "SRRA I ↓"),
    _of("srra2", "srra2", "{}", "how often it is accepted against another image of the person", "II ↓"),
    _of(
        "judge_sar", "judge_sar_0.01", "{}",
        "how often that recogniser takes a rebuilt face for the person, at one false match in a hundred",
    ),
    Column("noise_rms", "noise rms", 3, "measured, in units of the feature", interval=False),
    Column("snr_db", "SNR dB", 1, "measured signal-to-noise ratio of the template", interval=False),
    Column("template_bytes", "bytes a template", 0, "of a stored template", interval=False),
)  # fmt: skip

#: Beside these: what the verdict is made of. The Markdown is wide enough without.
MORE = (
    Column("acc_cost", "cost in ACC ↓", 3, "accuracy of the undefended system minus this one's"),
    *(
        _of(
            f"{level}_srra1",
            "srra1",
            f"up to {level}: {{}}",
            f"SRRA I of the best replay by who knows `{level}` at most",
        )
        for level in ("encoder", "algorithm", "enrolment", "whitebox")
    ),
)

BY_NAME = {column.name: column for column in (*COLUMNS, *MORE)}
