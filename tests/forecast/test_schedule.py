"""What a matrix comes to on many workers: bounds that any schedule keeps, and counts that can be had by hand."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Cli

from bench.forecast.schedule import Node, Size, critical_path, forecast, makespan
from bench.plan import plan
from bench.settings.resolve import load
from bench.settings.toml import default_path


@st.composite
def graphs(draw: st.DrawFn) -> list[Node]:
    """Nodes after what they need."""
    nodes: list[Node] = []
    for place in range(draw(st.integers(1, 12))):
        needs = draw(st.sets(st.sampled_from([n.name for n in nodes]))) if nodes else set()
        nodes.append(Node(str(place), tuple(sorted(needs)), draw(st.floats(0, 100))))
    return nodes


@given(graphs(), st.integers(1, 70))
def test_a_schedule_keeps_its_bounds(nodes: list[Node], workers: int) -> None:
    total, critical, taken = sum(n.seconds for n in nodes), critical_path(nodes), makespan(nodes, workers)
    close = 1e-9 * (1 + total)
    assert taken >= max(critical, total / workers) - close
    assert taken <= total / workers + critical * (1 - 1 / workers) + close  # Graham's bound
    assert makespan(nodes, 1) == pytest.approx(total)
    assert makespan(nodes, len(nodes)) == pytest.approx(critical)


def test_a_schedule_that_can_be_had_by_hand() -> None:
    nodes = [Node("a", (), 3), Node("b", ("a",), 3), Node("c", (), 2), Node("d", (), 2), Node("e", (), 2)]
    assert critical_path(nodes) == 6
    assert makespan(nodes, 2) == 6  # a b beside c d e: the longest chain goes first
    assert makespan(nodes, 1) == 12


def test_sharing_is_counted(config: Path) -> None:
    """Three defences, one of which trains a shadow and may train a server, under a decoder, the mean face, a replay."""
    settings = load(config)
    found = forecast(settings, plan(settings), Size(), measured=False)
    assert found.cells == 12
    assert found.trainings == 3  # the decoder serves all; AdvFace's shadow and server
    # Decoder: reconstruction and replay under each defence. Shadow: all cells of AdvFace; its server: where it embeds.
    assert found.unshared == 6 + 4 + 2


@pytest.mark.parametrize("name", ["defenses", "attacks", "datasets", "seeds"])
def test_a_larger_matrix_has_more_of_what_was_asked(config: Path, name: str) -> None:
    settings = load(config)
    had, asked = {"defenses": (3, 7), "attacks": (2, 5), "datasets": (1, 3), "seeds": (1, 5)}[name]
    made = plan(settings)
    small, large = (forecast(settings, made, Size(**{name: n}), measured=False) for n in (had, asked))
    assert small == forecast(settings, made, Size(), measured=False)
    if name in ("datasets", "seeds"):
        assert (large.cells, large.artefacts, large.trainings) == tuple(
            asked * n for n in (small.cells, small.artefacts, small.trainings)
        )
    elif name == "defenses":  # unprotected three times, laplace and advface twice
        assert large.cells == 7 * 4
        assert large.trainings == 1 + 2 * 2  # one decoder still
    else:  # mean_face three times, resrec and its replay twice
        assert large.cells == 3 * (1 + 3 + 2 * 2)
        assert large.trainings == 2 + 2  # decoders; shadow and server


def test_plan_says_so(config: Path, cli: Cli) -> None:
    said = cli("plan", "--estimate", "--seeds", "5").stdout
    assert "60 cells" in said and "longest chain" in said and "64 workers" in said
    found = json.loads(cli("plan", "--json", "--seeds", "5").stdout)
    assert (found["cells"], found["total_s"]) == (60, None)
    assert not Path("out").exists() and not Path("store").exists()


@pytest.mark.parametrize("profile", ["templates", "encryption", "clients", "cited", "cited-keys", "frequency"])
def test_the_trainings_of_every_family_are_counted(profile: str) -> None:
    settings = load(default_path(), profile)
    found = forecast(settings, plan(settings), Size(), measured=False)
    assert (found.trainings > 0) == (profile != "encryption")
