"""`veilbench check`: what comes with the project keeps the contract, and each kind of mistake fails its own check."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from support import TOYS, Cli
from torch import Tensor

from bench.checks import Scene, assert_sound, check, failures
from bench.contracts import (
    Alignment,
    Defense,
    ImageRng,
    Knowledge,
    Leak,
    Recognizer,
    ReconstructionAttack,
    SplitNetwork,
    State,
    System,
)
from bench.settings import registry

BRIEF = {"epochs": 1, "images": 32}


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene.small()


def _made(kind: Any, name: str, **parameters: Any) -> Any:
    return registry.make(registry.find(kind, name, "test"), parameters, "test")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("unprotected", {}),
        ("random_noise", {"steps": 3}),
        ("laplace", {}),
        ("advface", {"iterations": 2, "width": 8, "batch": 4, "training": BRIEF}),
        ("advface", {"iterations": 2, "width": 8, "bn": "frozen", "bound": "step", "training": BRIEF}),
        ("duetface", {"upsample": 1, "recipe": {"epochs": 1}}),
        ("partialface", {"recipe": {"epochs": 1}}),
        ("fracface", {"draw": "batch", "recipe": {"epochs": 1}}),
        ("dctdp", {"fit_steps": 2, "recipe": {"epochs": 1}}),
        ("dctdp", {"fit_steps": 2, "noise": "batch", "recipe": {"epochs": 1}}),
        pytest.param("minusface", {"fit_steps": 2, "width": 4, "recipe": {"epochs": 1}}, marks=pytest.mark.slow),
    ],
)
def test_built_in_defences_keep_their_contract(scene: Scene, name: str, parameters: dict[str, Any]) -> None:
    assert_sound(_made("defense", name, **parameters), scene)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("blind", {}),
        ("transrec", {"training": {"epochs": 8, "batch": 8}}),
        ("resrec", {"width": 16, "training": {"epochs": 8, "batch": 8}}),
        ("resrec", {"width": 16, "training": {"epochs": 8, "batch": 8}, "knowledge": "enrolment", "enrolled": 16,
                    "adaptation": {"epochs": 1}}),
        ("urec", {"width": 16, "training": {"epochs": 8, "batch": 8}}),
        ("gradient_inversion", {"iterations": 200, "images": 4}),
        ("linear_inversion", {}),
        ("linkage", {}),
    ],
)  # fmt: skip
def test_built_in_attacks_keep_their_contract(scene: Scene, name: str, parameters: dict[str, Any]) -> None:
    assert_sound(_made("attack", name, **parameters), scene)


def test_recognisers_and_datasets_too() -> None:
    assert_sound(_made("recognizer", "compact"))
    assert_sound(_made("recognizer", str(TOYS / "tiny.py")))
    assert_sound(_made("dataset", "synthetic", folds=2, pairs_per_fold=2, public=8))
    assert_sound(_made("dataset", str(TOYS / "blobs.py")))


# ------------------------------------------------------------------------------------------ each mistake, its check


@dataclass(frozen=True, kw_only=True)
class Thawed(Defense):
    """Passes for a plugin in all but its decorator."""


class Undecorated(Thawed):
    pass


@dataclass(frozen=True, kw_only=True)
class Unspeakable(Defense):
    values: Any = field(default_factory=lambda: {1, 2})


@dataclass(frozen=True, kw_only=True)
class Restless(Defense):
    """What it learns is another thing each time."""

    def fit(self, recognizer: Any, public: Any, rng: Any) -> State:
        return State({"noise": torch.rand(3)})


@dataclass(frozen=True, kw_only=True)
class Unstorable(Defense):
    """Two names for one piece of memory, which no file of tensors holds."""

    def fit(self, recognizer: Any, public: Any, rng: Any) -> State:
        whole = torch.zeros(8)
        return State({"whole": whole, "half": whole[:4]})


@dataclass(frozen=True, kw_only=True)
class Short(Defense):
    def encode(self, system: System, images: Tensor) -> Tensor:
        return system.recognizer.extract(images).mean(1)


@dataclass(frozen=True, kw_only=True)
class Half(Defense):
    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        return features.half()


@dataclass(frozen=True, kw_only=True)
class Divides(Defense):
    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        return features / 0


@dataclass(frozen=True, kw_only=True)
class Scribbles(Defense):
    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        return features.mul_(2).clone()


@dataclass(frozen=True, kw_only=True)
class Trains(Defense):
    """Changes the recogniser that everybody shares."""

    def fit(self, recognizer: SplitNetwork, public: Any, rng: Any) -> None:
        with torch.no_grad():
            next(recognizer.server.parameters()).add_(0.1)


@dataclass(frozen=True, kw_only=True)
class Wild(Defense):
    """Draws from torch's own generator."""

    randomized: ClassVar[bool] = True

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        return features + torch.randn_like(features)


@dataclass(frozen=True, kw_only=True)
class Undeclared(Defense):
    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        return features + rng.normal(features)


@dataclass(frozen=True, kw_only=True)
class Stale(Defense):
    """Says that it is randomised, and is not."""

    randomized: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Sociable(Defense):
    """Looks at its batch and does not say so."""

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        return features - features.mean(0)


@dataclass(frozen=True, kw_only=True)
class Crowded(Defense):
    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        return features + 0 * features.max(0).values


@dataclass(frozen=True, kw_only=True)
class Loud(Defense):
    template_dtype: ClassVar[Any] = "float16"

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        return 1e9 * features


@dataclass(frozen=True, kw_only=True)
class Beside(Defense):
    def reference(self, system: System, features: Tensor) -> Tensor:
        return features.mean(1)


@dataclass(frozen=True, kw_only=True)
class Long(Defense):
    def embed(self, system: System, templates: Tensor) -> Tensor:
        return 3 * system.recognizer.embed(templates)


@dataclass(frozen=True, kw_only=True)
class Square(Defense):
    """Knows one size of features only."""

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        return features + torch.zeros(64, 21, 17)


@dataclass(frozen=True, kw_only=True)
class Remembers(Defense):
    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        object.__setattr__(self, "last", features)
        return features


@pytest.mark.parametrize(
    ("defense", "name"),
    [
        (Undecorated(), "parameters"),
        (Unspeakable(), "parameters"),
        (Restless(), "fit"),
        (Unstorable(), "fit"),
        (Short(), "features"),
        (Half(), "templates"),
        (Divides(), "templates"),
        (Scribbles(), "inputs untouched"),
        (Wild(), "same seed, same template"),
        (Undeclared(), "fresh randomness"),
        (Stale(), "fresh randomness"),
        (Sociable(), "batch composition"),
        (Crowded(), "batches of one and none"),
        (Loud(), "stored precision"),
        (Beside(), "reference"),
        (Long(), "embeddings"),
        (Square(), "odd sizes"),
        (Remembers(), "holds no state"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Defense) else "",
)
def test_each_mistake_of_a_defence_fails_its_check(scene: Scene, defense: Defense, name: str) -> None:
    wrong = {verdict.check: verdict for verdict in failures(check(defense, scene))}
    assert name in wrong, wrong
    verdict = wrong[name]
    assert verdict.expected and verdict.came and verdict.fix
    assert next(iter(wrong)) == name, "nothing else is blamed first"


def test_a_changed_recogniser_is_seen() -> None:
    own = Scene.small()  # nobody else's: it comes out damaged
    for plugin in (Trains(), Poisons()):
        assert "weights untouched" in {verdict.check for verdict in failures(check(plugin, own))}


@dataclass(frozen=True, kw_only=True)
class Idle(ReconstructionAttack):
    """Grey for everybody; the base of the ones below."""

    @property
    def level(self) -> Knowledge:
        return Knowledge.ENCODER

    def reconstruct(self, oracle: Any, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        return torch.full((len(leak.values), 3, *oracle.image_size), 0.5)


@dataclass(frozen=True, kw_only=True)
class Greedy(Idle):
    def fit(self, oracle: Any, public: Any, rng: Any) -> None:
        oracle.enrol(public.batch(slice(0, 2)), ["a", "b"])


@dataclass(frozen=True, kw_only=True)
class Premature(Idle):
    """Compares with the victims' templates before it has stolen any."""

    @property
    def level(self) -> Knowledge:
        return Knowledge.ENROLMENT

    def fit(self, oracle: Any, public: Any, rng: Any) -> None:
        oracle.similarity(public.batch(slice(0, 2)), [0, 1])


@dataclass(frozen=True, kw_only=True)
class Poisons(Idle):
    """Trains the network that everybody shares."""

    @property
    def level(self) -> Knowledge:
        return Knowledge.WHITEBOX

    def reconstruct(self, oracle: Any, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        with torch.no_grad():
            next(oracle.system.recognizer.server.parameters()).add_(0.1)
        return super().reconstruct(oracle, state, leak, rng)


@dataclass(frozen=True, kw_only=True)
class Signed(Idle):
    def reconstruct(self, oracle: Any, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        return super().reconstruct(oracle, state, leak, rng) * 255


@dataclass(frozen=True, kw_only=True)
class Small(Idle):
    def reconstruct(self, oracle: Any, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        return super().reconstruct(oracle, state, leak, rng)[..., ::2]


@dataclass(frozen=True, kw_only=True)
class Moody(Idle):
    def reconstruct(self, oracle: Any, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        return super().reconstruct(oracle, state, leak, rng) * torch.rand(1)


@dataclass(frozen=True, kw_only=True)
class Averages(Idle):
    def reconstruct(self, oracle: Any, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        return super().reconstruct(oracle, state, leak, rng) * len(leak.values) / 12


@dataclass(frozen=True, kw_only=True)
class Overwrites(Idle):
    def reconstruct(self, oracle: Any, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        leak.values.zero_()
        return super().reconstruct(oracle, state, leak, rng)


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (Idle(), "works on unprotected templates"),
        (Greedy(), "knowledge, nothing protected"),
        (Premature(), "knowledge, nothing protected"),
        (Signed(), "images"),
        (Small(), "images"),
        (Moody(), "same seed, same images"),
        (Averages(), "batch composition"),
        (Overwrites(), "inputs untouched"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, ReconstructionAttack) else "",
)
def test_each_mistake_of_an_attack_fails_its_check(scene: Scene, attack: Any, name: str) -> None:
    wrong = [verdict.check for verdict in failures(check(attack, scene))]
    assert wrong and wrong[0] == name, wrong


@dataclass(frozen=True, kw_only=True)
class Awake(Recognizer):
    """Forgets eval()."""

    @property
    def alignment(self) -> Alignment:
        return Alignment("margin", (24, 20))

    def weights_hash(self) -> str:
        return "none"

    def load(self) -> SplitNetwork:
        network: SplitNetwork = _made("recognizer", str(TOYS / "tiny.py")).load()
        return network.train()


def test_a_recogniser_in_training_mode_is_refused() -> None:
    (wrong, *_) = failures(check(Awake()))
    assert wrong.check == "loads" and "training mode" in wrong.came and ".eval()" in wrong.fix
    with pytest.raises(AssertionError, match=r"training mode"):
        assert_sound(Awake())


# ------------------------------------------------------------------------------------------------ the command line


def test_the_command_says_what_is_wrong_and_how_to_mend_it(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(
        "from dataclasses import dataclass\nimport torch\nfrom bench.contracts import Defense\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Loud(Defense):\n"
        '    """Draws where it should not."""\n    sigma: float = 0.1\n'
        "    def protect(self, system, features, rng):\n        return features + torch.randn_like(features)\n"
    )
    done = cli("check", "loud.py", "--small", "--faces", "16", cwd=tmp_path, status=1)
    assert "FAIL  same seed, same template" in done.stdout and "from the rng" in done.stdout
    done = cli("check", "unprotected", "--small", "--faces", "16", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["passed"] is True
    for arguments, said in (
        (["laplac"], "Did you mean 'laplace'?"),
        (["nowhere.py"], "no file 'nowhere.py'"),
        (["laplace", "--param", "scal=1"], "unknown parameter 'scal'"),
    ):
        assert said in cli("check", *arguments, cwd=tmp_path, status=2).stderr
