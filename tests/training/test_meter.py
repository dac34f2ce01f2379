"""Counters of a stage."""

from __future__ import annotations

import json

import pytest

from rag_exp.models.flops import ReaderSizes, TokenCounts, training_flops
from rag_exp.training.meter import Meter

SIZES = ReaderSizes(body=100, layers=2, attention_width=8, width=8, vocab=50)


def test_the_curve_is_the_mean_of_each_stretch():
    meter = Meter(250)  # 100 points at most: one every 3 steps, and the last
    for step in range(250):
        meter.step(float(step))
    assert meter.curve[0] == (3, 1.0)
    assert meter.curve[-2] == (249, 247.0)
    assert meter.curve[-1] == (250, 249.0)
    assert len(meter.curve) == 84
    assert meter.recent == 249.0


def test_points_of_the_curve_are_whole_windows():
    meter = Meter(1000, window=8)
    for step in range(1000):
        meter.step(float(step))
    assert [step for step, _ in meter.curve[:3]] == [16, 32, 48]
    assert meter.curve[-1][0] == 1000
    short = Meter(20, window=8)
    for _ in range(20):
        short.step(1.0)
    assert [step for step, _ in short.curve] == [8, 16, 20]


def test_it_survives_json_at_any_moment():
    straight, broken = Meter(40), Meter(40)
    for step in range(40):
        for meter in (straight, broken):
            meter.read(TokenCounts(rows=2, tokens=10 + step, target_tokens=3), 2, step % 2)
            meter.step(1 / (step + 1))
        broken = Meter.of(json.loads(json.dumps(broken.facts())))
    assert broken == straight
    assert broken.stats(SIZES) == straight.stats(SIZES)


def test_stats():
    meter = Meter(2)
    counts = TokenCounts(rows=2, tokens=30, target_tokens=4, input_tokens=30, input_squares=500)
    meter.read(counts, 4, 1)
    meter.step(2.0)
    assert meter.recent == 2.0
    stats = meter.stats(SIZES)
    assert (stats["steps"], stats["tokens"], stats["target_tokens"], stats["truncated"]) == (1, 30, 4, 0.25)
    assert stats["flops"] == training_flops(counts, SIZES)
    assert Meter(1).stats(SIZES)["truncated"] is None
    assert Meter(1).recent is None


def test_steps_come_with_finite_losses_only_because_the_module_looked():
    meter = Meter(4)
    for loss in (1.0, 2.0):
        meter.step(loss)
    assert meter.done == 2
    assert [loss for _, loss in meter.curve] == pytest.approx([1.0, 2.0])
