"""The progress display."""

from __future__ import annotations

import pytest

from rag_exp.training import progress
from rag_exp.training.progress import Ticker, duration


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (42.4, "42 s"), (59.7, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_rate_and_time_left_count_from_where_a_resumed_stage_began():
    ticker = Ticker("marginal", 400, True, start=100)
    assert ticker.status(150, "loss 9.410", 10.0) == "150/400 steps, 5/s, 50 s left, loss 9.410"
    assert ticker.status(100, "", 0.0) == "100/400 steps"


def test_without_a_terminal_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    with Ticker("evaluation", 10, True, unit="questions") as ticker:
        ticker.at(4)
        ticker.at(9, "nearly")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "evaluation: 4/10 questions" in lines[0]
    assert lines[1].endswith("nearly")


def test_it_is_quiet_when_told_and_between_draws(monkeypatch, capsys):
    with Ticker("evaluation", 10, True) as ticker:
        ticker.at(4)  # not due yet
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    with Ticker("evaluation", 10, False) as ticker:
        ticker.at(4)
        assert not ticker.due()
    assert capsys.readouterr().err == ""


def test_on_a_terminal_a_bar_that_goes_away(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(progress, "BAR_EVERY", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    with Ticker("reader warmup", 10, True) as ticker:
        ticker.at(5, "loss 1.000")
        assert ticker._bar is not None
    assert ticker._bar is None
