"""Checks whether a plugin keeps its contract, for `veilbench check` and for the tests of other packages:

from bench.checks import assert_sound
from mine import Mine

def test_mine() -> None:
    assert_sound(Mine(sigma=0.2))
"""

from __future__ import annotations

from typing import Any

from bench.checks.attacks import check_attack
from bench.checks.defenses import check_defense
from bench.checks.keyed import check_keyed_attack, check_keyed_defense
from bench.checks.others import check_dataset, check_recognizer
from bench.checks.scene import Scene
from bench.checks.verdict import Verdict, failures
from bench.contracts import Attack, Dataset, Defense, KeyedAttack, KeyedDefense, Recognizer
from bench.settings import registry
from bench.settings.keyed_canaries import Sealed

__all__ = ["Scene", "Verdict", "assert_sound", "check", "failures"]


def check(plugin: Any, scene: Scene | None = None) -> list[Verdict]:
    """Runs every check for the plugin's kind.

    Args:
        plugin: an instance of a defence, attack, recogniser or dataset.
        scene: the system on which a defence or attack is tested; by default with the recogniser in the package.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(plugin, KeyedDefense):
        return check_keyed_defense(plugin)
    if isinstance(plugin, KeyedAttack):
        name, parameters = plugin.breaks or ("", {})
        return check_keyed_attack(plugin, registry.find("defense", name, "check")(**parameters) if name else Sealed())
    if isinstance(plugin, Defense):
        return check_defense(plugin, scene or Scene.shipped())
    if isinstance(plugin, Attack):
        return check_attack(plugin, scene or Scene.shipped())
    if isinstance(plugin, Recognizer):
        return check_recognizer(plugin)
    if isinstance(plugin, Dataset):
        return check_dataset(plugin)
    raise TypeError(f"{type(plugin).__name__} is not a defence, attack, recogniser or dataset")


def assert_sound(plugin: Any, scene: Scene | None = None) -> None:
    """Like `check`, for a test.

    Raises:
        AssertionError: a check failed; says what was expected, what was found, and how to fix it.
    """
    wrong = failures(check(plugin, scene))
    assert not wrong, "\n".join(str(verdict) for verdict in wrong)
