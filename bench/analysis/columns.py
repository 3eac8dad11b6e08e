"""The columns of the leaderboard: heading, description and format."""

from __future__ import annotations

from dataclasses import dataclass

from bench.labels import LADDER, Knowledge
from bench.metrics.catalogue import metric


@dataclass(frozen=True)
class Column:
    """One column. The frame has NAME, and NAME_low and NAME_high if there is an interval."""

    name: str
    heading: str
    decimals: int
    says: str  #: a description that stands alone
    interval: bool = True
    narrow: str = ""  #: a heading for a printed page; empty: omitted there


def _of(name: str, of: str, heading: str, says: str, narrow: str = "") -> Column:
    """A column with a metric of the catalogue; `{}` in its heading is replaced by the metric's."""
    shown = metric(of)
    return Column(name, f"{heading.format(shown.heading)} {shown.arrow}", shown.decimals, says, True, narrow)


COLUMNS = (
    _of("acc", "acc", "{}", "verification accuracy, both sides protected", "ACC ↑"),
    _of("acc_raw_probe", "acc_raw_probe", "{}", "accuracy with an unprotected probe"),
    _of("worst_ssim", "ssim", "worst {}", "SSIM of the best attack; ≥: an attack is missing", "SSIM ↓"),
    _of("worst_psnr_db", "psnr_db", "{}", "of that attack", "PSNR dB ↓"),
    _of("worst_cosine", "cosine", "{}", "of the reconstruction's embedding with the original's", "cosine ↓"),
    _of("worst_judge_cosine", "judge_cosine", "{}", "the same, by a recogniser that nobody attacked (`run.judge`)"),
    _of("worst_lpips", "lpips", "{}", "of that attack, AlexNet", "LPIPS ↑"),
    _of(
        "database_ssim", "ssim", "up to database: SSIM",
        "of the best attack with the stolen templates and public faces only",
    ),
    _of("server_ssim", "ssim", "up to server: SSIM", "of the best attack that knows the server and never saw a client"),
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
        "whitebox_ssim", "ssim", "up to whitebox", "SSIM of the best attack, gradients included", "white box"
    ),
    _of(
        "bound_ssim", "ssim", "oracle bound SSIM",
        "best of all attacks per image; no single attack reaches it", "bound",
    ),
    Column(
        "best_known_ssim", "best known elsewhere: SSIM", 3,
        "published SSIM on the same defence, other data; never ranked", interval=False,
    ),
    Column("blind_ssim", "blind floor SSIM", 3, "SSIM of the best guess without the template", narrow="blind floor"),
    _of("srra1", "srra1", "{}", "how often the rebuilt face is accepted against the same image's template", "SRRA I ↓"),
    _of("srra2", "srra2", "{}", "how often it is accepted against another image of the person", "II ↓"),
    _of(
        "judge_sar", "judge_sar_0.01", "{}",
        "how often the judge accepts a rebuilt face as the person, at a false match rate of 1 %",
    ),
    _of("lowest_mse", "mse", "lowest {}", "mean squared error of the best attack on one template, by this figure"),
    Column(
        "mse_floor", "MSE floor", 7,
        "van Trees bound for faces from a Gaussian: no attack on one template should be below", interval=False,
    ),
    Column(
        "mse_isotropic", "MSE bound, isotropic", 5,
        "the same for equal variance beyond the principal directions: a yardstick, no floor", interval=False,
    ),
    Column("noise_rms", "noise rms", 3, "measured, in units of the feature", interval=False),
    Column("snr_db", "SNR dB", 1, "measured signal-to-noise ratio of the template", interval=False),
    Column("template_bytes", "bytes per template", 0, "size of a stored template", interval=False),
    Column("client_ms", "client ms", 2, "milliseconds of an image on the client, in batches of 50", interval=False),
    Column(
        "server_ms", "server ms", 2, "milliseconds of an image on the server: protecting and embedding", interval=False
    ),
    Column("training_min", "training min", 1, "minutes of fitting the defence and its server", interval=False),
    Column(
        "queries", "queries", 0, "images that the worst attack asked about: in its last training and in the attack",
        interval=False,
    ),
)  # fmt: skip

#: Additional columns that the verdict uses; the Markdown is wide enough without them.
MORE = (
    Column(
        "worst_optimism", "subtracted from worst SSIM", 4,
        "what the best attack owes to being chosen by its result, estimated by the bootstrap", interval=False,
    ),
    Column(
        "worst_share", "worst attack's share", 2, "resamples in which the worst attack is the best one", interval=False
    ),
    Column("acc_cost", "cost in ACC ↓", 3, "accuracy of the undefended system minus this one's"),
    *(
        _of(
            f"{level}_srra1",
            "srra1",
            f"up to {level}: {{}}",
            f"SRRA I of the best replay with knowledge up to `{level}`",
        )
        for level in Knowledge
        if level > Knowledge.BLIND
    ),
)  # fmt: skip

#: Columns of levels at which few runs attack: a table has them only if one of its rows has a figure.
OPTIONAL = tuple(
    f"{level}_{figure}"
    for level in Knowledge
    if level > Knowledge.BLIND and level not in LADDER
    for figure in ("ssim", "srra1")
)

BY_NAME = {column.name: column for column in (*COLUMNS, *MORE)}
