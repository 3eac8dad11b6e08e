"""The attacker's levels of knowledge are a partial order."""

from itertools import product

from bench.labels import LADDER, Knowledge


def test_levels_are_a_partial_order_that_sorting_respects() -> None:
    for a, b, c in product(Knowledge, repeat=3):
        assert a <= a and (a < b) == (b > a) == (a <= b and a is not b) and (a >= b) == (b <= a)
        assert not (a <= b and b <= a) or a is b
        assert not (a <= b and b <= c) or a <= c
        assert not a < b or a.place < b.place


def test_only_server_and_the_ladder_below_whitebox_are_not_comparable() -> None:
    apart = {frozenset((a, b)) for a, b in product(Knowledge, repeat=2) if not a <= b and not b <= a}
    assert apart == {frozenset((Knowledge.SERVER, level)) for level in LADDER[:-1]}
    assert all(Knowledge.BLIND <= level <= Knowledge.WHITEBOX for level in Knowledge)
    assert all(level >= Knowledge.DATABASE for level in Knowledge if level is not Knowledge.BLIND)
    assert [str(level) for level in LADDER] == ["encoder", "algorithm", "enrolment", "whitebox"]
