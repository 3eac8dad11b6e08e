"""Builds the tables beside the leaderboard: the self-test, noise controls, names and traits instead of pictures."""

from __future__ import annotations

from dataclasses import dataclass

from bench.analysis.board import UNKNOWN, Board, Entry
from bench.analysis.keyed import board_templates
from bench.analysis.selftest import board_trials, void_attacks
from bench.labels import control
from bench.report.keyed import PARTS, keyed_rows
from bench.report.text import figure_text, markdown
from bench.storage.records import Measure


@dataclass(frozen=True)
class Side:
    """A table of texts with its heading, and the note needed to read it."""

    title: str
    rows: list[list[str]]
    note: str


def side_tables(board: Board) -> list[Side]:
    """The tables for which this board has data."""
    return [
        side for side in (_selftest(board), _controls(board), _linkage(board), _traits(board)) if len(side.rows) > 1
    ]


def sections(board: Board) -> list[str]:
    """The same as Markdown, after the tables of keyed defences."""
    place = f"{board.dataset}, {board.recognizer}"
    some = [*(side for side in _keyed(board) if len(side.rows) > 1), *side_tables(board)]
    return [f"### {side.title}: {place}\n\n{markdown(side.rows)}\n\n{side.note}" for side in some]


def _keyed(board: Board) -> list[Side]:
    records = board_templates(board).to_dict("records")
    return [Side(part.title, keyed_rows(part, records), part.note) for part in PARTS]


def _selftest(board: Board) -> Side:
    rows = [["attack", "canary", "verdict", "figures"]]
    for trial in sorted(board_trials(board), key=lambda t: (t.passed, t.attack, t.canary)):
        rows.append([trial.attack, trial.canary, "passed" if trial.passed else "FAILED: void", trial.said])
    return Side("Self-test", rows, _SELFTEST)


_SELFTEST = (
    "*open*, *fixed*, *secret*, *affine*: systems known to be broken for an attacker with the attack's knowledge; it "
    "must close half of the gap between the blind floor and a perfect image. *closed*: the stored data is independent "
    "of the image; reconstructions must not be more similar to it than to another person's. An attack that names "
    "people must name half of those whom a login names, and only chance on *closed*. An attack on traits must keep "
    "half of what it has above chance on clean features, and be at chance on *closed*. An attack on keyed templates "
    "must reach a cosine or an AUC on a defence that falls to it, and be at chance on *sealed*, whose keys are used "
    "once. An attack that fails either is void."
)


def _best_at_encoder(board: Board, defense: str) -> Entry | None:
    good = [e for e in board.under(defense, "reconstruction") if not e.failed and e.cell.level == "encoder"]
    return max(good, key=lambda e: e.metric("ssim").value or 0.0, default=None)


_CONTROL_NOISE = {"random": "random", "another image's": "swapped"}  #: heading, and the label's part


def _controls(board: Board) -> Side:
    rows = [["defence", "noise", "ACC ↑", "noise rms", "best attack at encoder", "SSIM (7x7) ↓", "PSNR dB ↓"]]
    for defense in board.defenses:
        variants = {
            "its own": defense,
            "random": control(defense, "random"),
            "another image's": control(defense, "swapped"),
        }
        if not any(e.cell.defense == variants["random"] for e in board.entries):
            continue
        for noise, label in variants.items():
            utility, best = board.find("utility", label), _best_at_encoder(board, label)
            acc: Measure = utility.metric("acc") if utility else UNKNOWN
            rms = utility.records[0].noise.get("rms") if utility and not utility.failed else None
            figures = [best.metric(name) if best else UNKNOWN for name in ("ssim", "psnr_db")]
            rows.append(
                [
                    defense,
                    noise,
                    figure_text(acc.value, acc.low, acc.high, 3),
                    figure_text(rms, None, None, 3),
                    best.cell.attack if best else "–",
                    *(figure_text(m.value, m.low, m.high, d) for m, d in zip(figures, (3, 1), strict=True)),
                ]
            )
    return Side("Controls", rows, _CONTROLS)


_CONTROLS = (
    "Noise of the same strength, image by image: in a random direction, and computed for another image. If "
    "these hide as much, the direction of the defence's noise has no effect."
)


def _linkage(board: Board) -> Side:
    void = void_attacks(board)
    rows = [["defence", "attack (level)", "rank 1 ↓", "by a login alone", "ACC, raw probe", "gallery"]]
    for defense in board.defenses:
        for entry in board.under(defense, "linkage"):
            who = f"{entry.cell.attack} ({entry.cell.level}){', void' if entry.cell.attack in void else ''}"
            if entry.failed:
                rows.append([defense, who, entry.why, "", "", ""])
                continue
            utility = board.find("utility", defense)
            figures = [entry.metric("rank1"), entry.metric("rank1_login")]
            figures.append(utility.metric("acc_raw_probe") if utility else UNKNOWN)
            rows.append(
                [
                    defense,
                    who,
                    *(figure_text(m.value, m.low, m.high, 3) for m in figures),
                    str(entry.records[0].info.get("gallery", "–")),
                ]
            )
    return Side("Names without pictures", rows, _LINKAGE)


_LINKAGE = (
    "Whose template is it, given a photograph of everybody? *By a login alone* restates what recognition is for, as "
    "does the accuracy with raw probes; only what exceeds them leaks through the template itself."
)


def _traits(board: Board) -> Side:
    void = void_attacks(board)
    rows = [
        ["defence", "attack (level)", "trait", "balanced accuracy ↓", "clean features", "ECE", "ECE, clean features"]
    ]
    splits: dict[str, str] = {}
    without: dict[tuple[str, str], list[str]] = {}  # an attack and why it has no figure; where labels lack: everywhere
    for defense in board.defenses:
        for entry in board.under(defense, "traits"):
            who = f"{entry.cell.attack} ({entry.cell.level}){', void' if entry.cell.attack in void else ''}"
            if entry.failed:
                without.setdefault((who, entry.why), []).append(defense)
                continue
            mean = [entry.metric(f"{prefix}trait_accuracy") for prefix in ("", "clean_")]
            rows.append([defense, who, "mean", *(figure_text(m.value, m.low, m.high, 3) for m in mean), "", ""])
            for trait, about in entry.records[0].info.get("traits", {}).items():
                names = [f"{prefix}{of}_{trait}" for of in ("trait_accuracy", "trait_ece") for prefix in ("", "clean_")]
                figures = [entry.metric(name) for name in names]
                named = f"{trait} (void)" if about["void"] else trait
                rows.append([defense, who, named, *(figure_text(m.value, m.low, m.high, 3) for m in figures)])
                if about["split"] is not None:
                    splits[trait] = f"{trait} above {about['split']:.3g}"
    rows += [[", ".join(defenses), who, why, "", "", "", ""] for (who, why), defenses in without.items()]
    return Side("Traits without pictures", rows, " ".join([_TRAITS, *_split_note(splits)]))


def _split_note(splits: dict[str, str]) -> list[str]:
    """The questions that replace numbers."""
    return [f"Numbers are split at the median of the attacker's faces: {', '.join(splits.values())}."] if splits else []


_TRAITS = (
    "What a template says about a person (soft biometrics). Balanced accuracy: .5 is chance. *Clean features*: the "
    "same attack on what a system without a defence stores. A trait that it does not find there is void, and not part "
    "of the mean. ECE: how far the stated probabilities are from the frequencies."
)
