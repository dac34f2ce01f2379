from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_exp.analysis import theme


def test_numbers_with_si_letters():
    known = {
        0: "0",
        997: "997",
        999.9: "1k",
        1000: "1k",
        32_380: "32.4k",
        1_966_080: "1.97M",
        2.5e9: "2.5G",
        0.0123: "0.0123",
    }
    assert {v: theme.si(v) for v in known} == known


def test_numbers_beyond_si_letters_are_written_as_commands_take_them():
    known = {1e15: "1e15", 9.6108e12: "9.61e12", 5e21: "5e21", 9.999e9: "1e10"}
    assert {v: theme.scientific(v) for v in known} == known


@given(st.floats(1e-3, 1e9), st.floats(1.05, 1e6))
def test_ticks_are_round_few_and_inside(low, factor):
    ticks = theme.log_ticks(low, low * factor)
    assert all(low <= t <= low * factor for t in ticks)
    assert len(ticks) <= 6
    assert all(float(f"{t:.1e}") == pytest.approx(t) for t in ticks)
    if factor >= 3:
        assert len(ticks) >= 1


def test_ticks_of_the_quickstart():
    assert theme.log_ticks(950, 34_000) == [1e3, 2e3, 5e3, 1e4, 2e4]
    assert theme.log_ticks(120_000, 2_200_000) == [2e5, 3e5, 5e5, 1e6, 2e6]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12))
def test_labels_never_touch_and_keep_their_order(positions):
    placed = theme.spread_labels(positions, (0, 100), height=340)
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    heights = [placed[i] for i in order]
    gap = 14 * 100 / 340
    assert all(b - a >= gap * (1 - 1e-9) for a, b in pairwise(heights))


def test_labels_that_have_room_stay_where_they_are():
    assert theme.spread_labels([10.0, 50.0, 90.0], (0, 100)) == [10.0, 50.0, 90.0]
    low, high = theme.spread_labels([50.0, 50.0], (0, 100))
    assert (low + high) / 2 == pytest.approx(50)


def test_shades_start_and_end_with_the_palette():
    shades = theme.shades(theme.SIZES, 4)
    assert (shades[0], shades[-1], len(set(shades))) == (theme.SIZES[0], theme.SIZES[-1], 4)
    assert theme.shades(theme.SIZES, len(theme.SIZES)) == list(theme.SIZES)
    assert len(theme.shades(theme.CORPORA, 1)) == 1


def test_units_of_the_loss():
    assert theme.label("nll") == "Loss, nats per answer"
    assert theme.unit("nll_per_byte") == "nats per byte"
    assert theme.label("something") == "something"
