"""Summarises a row of the leaderboard in one plain sentence.

The rules, for each level of knowledge at which an attack ran; `floor` is the SSIM of the best guess that ignores the
template, and all comparisons use 95 % intervals:

- the face is *hidden* if the SSIM of the best attack up to that level does not exceed the floor;
- it is *shown* if that SSIM exceeds the midpoint between the floor and the result at the same level on the undefended
  system (or a perfect image, if the run has no such system);
- it is *partly hidden* in between;
- there is no verdict if the same level sees nothing in the undefended system either: its attacks are too weak.

An attacker with more knowledge can do everything that one with less can, so a higher level never has a better verdict
than one that it includes. The sentence also reports logins with the reconstruction and the cost in accuracy, because a
face that looks hidden but is accepted at a login is not protected. It also lists levels that were not tried.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from bench.analysis.columns import BY_NAME
from bench.analysis.leaderboard import lower_bound
from bench.labels import LADDER, Knowledge

Standing = Literal["hidden", "partly", "shown"]

_STANDINGS: tuple[Standing, ...] = ("hidden", "partly", "shown")  #: from best to worst

LEVELS = tuple(level for level in Knowledge if level > Knowledge.BLIND)  #: in the order of columns
_MIDDLE = 0.5  #: position of the midpoint between the floor and the undefended result


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % interval; without one, both limits are the value itself."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, row: Mapping[Any, Any], name: str) -> Figure | None:
        """A figure of the leaderboard; None if there is none."""
        value, low, high = (row.get(f"{name}{part}", math.nan) for part in ("", "_low", "_high"))
        if value is None or math.isnan(value):
            return None
        certain = low is not None and high is not None and not math.isnan(low) and not math.isnan(high)
        return cls(float(value), *((float(low), float(high)) if certain else (float(value), float(value))))

    @property
    def ends(self) -> bool:
        """Whether there is an interval."""
        return self.low < self.high


@dataclass(frozen=True)
class Verdict:
    """One defence, judged by the rules above."""

    dataset: str
    recognizer: str
    defense: str
    standings: Mapping[str, Standing]  #: by level of knowledge, for the levels that were tried
    sentence: str  #: begins with a verb: "hides the face from ..."


def verdicts(frame: pd.DataFrame) -> list[Verdict]:
    """One verdict per row of a leaderboard, in its order."""
    found = []
    for (dataset, recognizer), some in frame.groupby(["dataset", "recognizer"], sort=False):
        rows = some.to_dict("records")
        floor = floor_of(rows)
        bare = next((row for row in rows if row["undefended"]), None)
        for row in rows:
            standings = _standings(row, floor, bare)
            text = _sentence(row, standings, floor, levels_of(rows))
            named = {str(level): standing for level, standing in standings.items()}
            found.append(Verdict(str(dataset), str(recognizer), str(row["defense"]), named, text))
    return found


def levels_of(rows: Sequence[Mapping[Any, Any]]) -> list[Knowledge]:
    """The levels to report, in order: the ladder, and others at which an attack ran on one of these defences."""
    return [
        level for level in LEVELS
        if level in LADDER or any(Figure.of(row, f"{level}_ssim") is not None for row in rows)
    ]  # fmt: skip


def floor_of(rows: Sequence[Mapping[Any, Any]]) -> Figure | None:
    """The best blind guess for one dataset and recogniser; None if there is none."""
    found = [figure for row in rows if (figure := Figure.of(row, "blind_ssim")) is not None]
    return max(found, key=lambda figure: figure.value, default=None)


def best_of(rows: Sequence[Mapping[Any, Any]], name: str) -> float | None:
    """The best figure of a column, among rows without missing attacks; None if neither direction is better."""
    up = "↑" in BY_NAME[name].heading
    if not up and "↓" not in BY_NAME[name].heading:
        return None
    ranked = [f.value for row in rows if not row["bound_note"] and (f := Figure.of(row, name)) is not None]
    if len({round(value, BY_NAME[name].decimals) for value in ranked}) < 2:
        return None
    return max(ranked) if up else min(ranked)


def _standings(
    row: Mapping[Any, Any], floor: Figure | None, bare: Mapping[Any, Any] | None
) -> dict[Knowledge, Standing]:
    found: dict[Knowledge, Standing] = {}
    for level in LEVELS:
        reached = Figure.of(row, f"{level}_ssim")
        if reached is None or floor is None:
            continue
        most = Figure.of(bare, f"{level}_ssim") if bare is not None else None
        middle = floor.value + _MIDDLE * (max(most.value, floor.value) - floor.value if most else 1 - floor.value)
        own = 0 if reached.low <= floor.high else 2 if reached.low > middle else 1
        if own == 0 and most is not None and most.low <= floor.high:
            continue
        included = [_STANDINGS.index(standing) for lower, standing in found.items() if lower < level]
        found[level] = _STANDINGS[max([own, *included])]
    return found


# ------------------------------------------------------------------------------------------------------- in words


#: What an attacker at a level can do, after "an attacker who".
_WHO = {
    Knowledge.DATABASE: "has the stolen templates alone (database)",
    Knowledge.SERVER: "runs the server (server)",
    Knowledge.ENCODER: "has the client (encoder)",
    Knowledge.ALGORITHM: "knows the defence (algorithm)",
    Knowledge.ENROLMENT: "may enrol faces (enrolment)",
    Knowledge.WHITEBOX: "has the whole system (whitebox)",
}


_WEAK = "the attacks see nothing in the undefended system either"


def _sentence(
    row: Mapping[Any, Any], standings: Mapping[Knowledge, Standing], floor: Figure | None, levels: Sequence[Knowledge]
) -> str:
    parts = [_face(row, standings, floor), _login(row, standings), _cost(row)]
    # An attacker with more knowledge than one who sees the face sees it too, so that need not be tried.
    seen = [level for level, standing in standings.items() if standing == "shown"]
    unknown = [level for level in levels if level not in standings and not any(lower < level for lower in seen)]
    weak = [level for level in unknown if Figure.of(row, f"{level}_ssim") is not None]
    untried = [level for level in unknown if level not in weak]
    if weak and floor is not None and standings:
        parts.append(f"nothing can be said of {', '.join(map(str, weak))}: {_WEAK}")
    if (standings or weak) and untried:
        parts.append(f"not tried: {', '.join(map(str, untried))}")
    if row["bound_note"]:
        parts.append(str(row["bound_note"]))
    if row["failed"]:
        parts.append(f"failed: {row['failed']}")
    return "; ".join(part for part in parts if part) + "."


def _face(row: Mapping[Any, Any], standings: Mapping[Knowledge, Standing], floor: Figure | None) -> str:
    if Figure.of(row, "worst_ssim") is None:
        return "was not attacked: nothing is known of what it hides"
    if floor is None:
        return "cannot be judged: no attack guessed blindly, so there is no floor to compare with"
    if not standings and row["undefended"]:
        return "was not reconstructed, although nothing is protected: the attacks are too weak to judge any defence"
    if not standings:
        return f"cannot be judged: {_WEAK}"
    hidden, partly, shown = ([level for level, own in standings.items() if own == wanted] for wanted in _STANDINGS)
    if row["undefended"]:
        return "protects nothing; the others are compared with it"
    if not hidden and not partly:
        return f"does not hide the face, not even from an attacker who {_least(shown)}"
    if hidden and not partly and not shown:
        return f"hides the face from every attacker that was tried, up to one who {_most(hidden)}"
    said = f"hides {'' if hidden else 'part of '}the face from an attacker who {_most(hidden or partly)}"
    if hidden and partly:
        said += f", part of it from one who {_most(partly)}"
    return f"{said}, not from one who {_least(shown)}" if shown else said


def _most(levels: Sequence[Knowledge]) -> str:
    """Those of the levels that no other one includes, in words."""
    return " or ".join(_WHO[level] for level in levels if not any(level < other for other in levels))


def _least(levels: Sequence[Knowledge]) -> str:
    """Those of the levels that include no other one, in words."""
    return " or ".join(_WHO[level] for level in levels if not any(other < level for other in levels))


def _login(row: Mapping[Any, Any], standings: Mapping[Knowledge, Standing]) -> str:
    tried = {level: f for level in LEVELS if (f := Figure.of(row, f"{level}_srra1")) is not None}
    tops = [f for level, f in tried.items() if not any(level < other for other in tried)]
    accepted = max(tops, key=lambda f: f.value, default=None)
    if accepted is None:
        return ""
    but = "but " if standings and set(standings.values()) == {"hidden"} and accepted.low > 0 else ""
    return f"{but}{_percent(accepted)} of logins with the rebuilt face succeed"


def _cost(row: Mapping[Any, Any]) -> str:
    cost = Figure.of(row, "acc_cost")
    if cost is None:
        return ""
    low, high = f"{100 * cost.low:.1f}", f"{100 * cost.high:.1f}"
    if cost.value < 0:
        low, high = f"{-100 * cost.high:.1f}", f"{-100 * cost.low:.1f}"
    interval = f" [{low}, {high}]" if cost.ends else ""
    interval += " (at most: its server had not converged)" if lower_bound(row, "acc") else ""
    if not round(1000 * cost.value):
        return f"costs no accuracy on these pairs{interval}"
    chance = ", which may be chance" if cost.ends and cost.low <= 0 <= cost.high else ""
    return f"{'gains' if cost.value < 0 else 'costs'} {abs(100 * cost.value):.1f} points of accuracy{interval}{chance}"


def _percent(figure: Figure) -> str:
    ends = f" [{100 * figure.low:.0f}, {100 * figure.high:.0f}]" if figure.ends else ""
    return f"{100 * figure.value:.0f} %{ends}"
