"""The layout of the paper's tables and figures: which cell each figure comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench import labels
from bench.errors import UserError
from bench.metrics import catalogue
from bench.paper.published import Key
from bench.paper.settings import PaperSettings
from bench.storage.records import Kind

ROLES = {"lfw": "LFW", "cfp_fp": "CFP-FP", "agedb": "AgeDB-30"}
NAMES = ("table1", "table2", "table3", "table4", "figure3", "figure4", "figure5", "figure6")
#: The paper's section 5.1.1; for AgeDB-30 it only says that there are as many as for LFW.
PAIRS = {"lfw": 6000, "cfp_fp": 7000, "agedb": 6000}
BOUNDS = (0.0, 0.05, 0.10, 0.15, 0.20, 0.25, 0.30)  #: section 5.2
MAIN = "ResRec"  #: the attack if the paper names none


@dataclass(frozen=True)
class Printed:
    """How the paper prints a metric: its decimals, and per cent for fractions."""

    heading: str
    decimals: int
    factor: float = 1.0


def _printed(name: str, heading: str, decimals: int, unit: str = "", factor: float = 1.0) -> Printed:
    return Printed(f"{heading} {catalogue.metric(name).arrow}{unit}", decimals, factor)


METRICS = {
    "ssim": _printed("ssim", "SSIM", 2),
    "psnr_db": _printed("psnr_db", "PSNR", 2, " (dB)"),
    "mse": _printed("mse", "MSE", 3),
    "srra2": _printed("srra2", "SRRA", 2, " (%)", 100),
    "acc": _printed("acc", "ACC", 2, " (%)", 100),
}


@dataclass(frozen=True)
class Slot:
    """One position in a table or figure: the record of its figure, and the published figure."""

    row: tuple[str, ...]
    column: tuple[str, ...]
    role: str
    metric: str
    kind: Kind
    defense: str  #: label in bench.toml; empty if `[paper]` names none
    attack: str = ""
    published: Key | None = None


@dataclass(frozen=True)
class Layout:
    """A table, or a figure's panels, in the paper's arrangement."""

    name: str
    title: str
    heads: tuple[str, ...]  #: headings of the columns that name a row
    slots: tuple[Slot, ...]
    note: str = ""

    @property
    def is_table(self) -> bool:
        """Tables are printed, figures are drawn."""
        return self.name.startswith("table")

    def defenses(self) -> list[str]:
        """Distinct labels."""
        return list(dict.fromkeys(s.defense for s in self.slots if s.defense))

    def attacks(self) -> list[str]:
        """Distinct labels of reconstruction attacks; for a replay, the attack that it wraps."""
        return list(dict.fromkeys(labels.replayed(s.attack) for s in self.slots if s.attack))


def layout(name: str, paper: PaperSettings, knowledge: str = "") -> Layout:
    """The layout of one table or figure.

    Args:
        knowledge: also include the same attacks at this level; only for Table 4 and Figure 6.

    Raises:
        UserError: `[paper]` lacks something that it needs.
    """
    swept = ("bounds",) if name in ("figure3", "figure4") else ()
    for part in ("recognizer", "methods", "shadows", "attacks", *swept):
        if not getattr(paper, part):
            raise UserError(f"[paper] {part} is not set: it must name the label for this part of the paper")
    if MAIN not in paper.attacks:
        raise UserError(f"[paper] attacks does not name {MAIN}, the paper's default attack")
    makers = {
        "table1": _table1,
        "table2": _table2,
        "table3": _table3,
        "figure3": _bounds,
        "figure4": _bounds,
        "figure5": _methods,
    }
    return makers[name](name, paper) if name in makers else _transfer(name, paper, knowledge)


def _table1(name: str, paper: PaperSettings) -> Layout:
    attack = paper.attacks[MAIN]
    slots = []
    for method in ("Unprotected", "Random", "DP", "DuetFace", "AdvFace"):
        for role, title in ROLES.items():
            for metric in ("ssim", "psnr_db", "mse", "srra2"):
                replay = metric == "srra2"
                slots.append(
                    Slot(
                        row=(_ours(method),),
                        column=(title, METRICS[metric].heading),
                        role=role,
                        metric=metric,
                        kind="replay" if replay else "reconstruction",
                        defense=paper.methods.get(method, ""),
                        attack=labels.replay(attack) if replay else attack,
                        published=("table1", (method,), role, metric),
                    )
                )
    note = (
        "SRRA is of type II: the replayed reconstruction is compared with the template of the person's other image, "
        "over the genuine pairs. The paper does not say which; its figures follow the accuracy as type II's do."
    )
    return Layout(name, "Privacy protection methods against reconstruction and replay", ("Method",), tuple(slots), note)


def _ours(method: str) -> str:
    return method.replace("AdvFace", "Ours")


def _table2(name: str, paper: PaperSettings) -> Layout:
    methods: Mapping[str, str] = {**paper.methods, "AdvFace (online)": paper.methods.get("AdvFace", "")}
    rows = ("Unprotected", "Random", "DP", "DuetFace", "AdvFace (online)", "AdvFace (offline)")
    slots = [
        Slot((_ours(row),), (title,), role, "acc", "utility", methods.get(row, ""), "", ("table2", (row,), role, "acc"))
        for row in rows
        for role, title in ROLES.items()
    ]
    note = "Both sides of a pair are protected; the threshold is chosen on the other folds."
    return Layout(name, "Face recognition accuracy (%) of privacy protection methods", ("Method",), tuple(slots), note)


_SHADOWS = {"transpose": "Ours(Trans)", "resnet": "Ours(Res)", "unet": "Ours(Unet)"}


def _table3(name: str, paper: PaperSettings) -> Layout:
    slots = [
        Slot(
            (text,), (title,), role, "acc", "utility", paper.shadows.get(shadow, ""), "", (name, (shadow,), role, "acc")
        )
        for shadow, text in _SHADOWS.items()
        for role, title in ROLES.items()
    ]
    note = "Both sides of a pair are protected; the threshold is chosen on the other folds."
    return Layout(name, "Accuracy (%) of AdvFace with different shadow models", ("Method",), tuple(slots), note)


def _transfer(name: str, paper: PaperSettings, knowledge: str) -> Layout:
    """Table 4 and Figure 6: every shadow against every attack, optionally also at another level of knowledge."""
    levels = ("encoder", knowledge) if knowledge and knowledge != "encoder" else ("encoder",)
    slots = []
    for metric in ("ssim", "psnr_db"):
        for shadow, text in _SHADOWS.items():
            for attack in ("TransRec", "ResRec", "URec"):
                for role, title in ROLES.items():
                    for level in levels:
                        own = level == "encoder"
                        label = paper.attacks.get(attack, "")
                        slots.append(
                            Slot(
                                row=(METRICS[metric].heading, text, attack),
                                column=(title,) if len(levels) == 1 else (title, level),
                                role=role,
                                metric=metric,
                                kind="reconstruction",
                                defense=paper.shadows.get(shadow, ""),
                                attack=label if own or not label else f"{label}@{level}",
                                published=("table4", (shadow, attack), role, metric) if own else None,
                            )
                        )
    note = f"At `{knowledge}` the same networks learn more than the paper's attacker may." if len(levels) > 1 else ""
    title = "AdvFace's shadow models under different reconstruction networks"
    return Layout(name, title, ("Metric", "Method", "Attack"), tuple(slots), note)


def _bounds(name: str, paper: PaperSettings) -> Layout:
    """Figures 3 and 4: noise bounds from 0 to 0.30, in accuracy and PSNR."""
    slots = []
    for bound in BOUNDS:
        for role, title in ROLES.items():
            label = f"{paper.bounds}[epsilon={bound}]"
            row = (f"{bound:.2f}",)
            slots.append(Slot(row, (title, METRICS["acc"].heading), role, "acc", "utility", label))
            heading = METRICS["psnr_db"].heading
            slots.append(Slot(row, (title, heading), role, "psnr_db", "reconstruction", label, paper.attacks[MAIN]))
    title = (
        "Reconstructions under different noise bounds"
        if name == "figure3"
        else "Accuracy and PSNR under different noise bounds"
    )
    return Layout(name, title, ("epsilon",), tuple(slots), "The paper prints no figures for this one.")


def _methods(name: str, paper: PaperSettings) -> Layout:
    """Figure 5: the methods' reconstructions, in the paper's order."""
    slots = [
        Slot(
            (_ours(method),),
            (title, METRICS["ssim"].heading),
            role,
            "ssim",
            "reconstruction",
            paper.methods.get(method, ""),
            paper.attacks[MAIN],
            ("table1", (method,), role, "ssim"),
        )
        for method in ("Unprotected", "AdvFace", "Random", "DP", "DuetFace")
        for role, title in ROLES.items()
    ]
    title = "Reconstructions from features of different privacy protection methods"
    return Layout(name, title, ("Method",), tuple(slots), "Published figures: Table 1.")
