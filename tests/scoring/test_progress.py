"""Progress: a bar in a terminal, now and then a line elsewhere, and what must be said."""

import sys

from opd_diag.scoring import progress
from opd_diag.scoring.progress import StderrProgress


def run(display: StderrProgress) -> None:
    with display:
        display.start("step0", 100)
        display.advance(60)
        display.advance(-60)
        display.advance(100)
        display.say("warning: [bold] is no markup")


def test_a_pipe_gets_messages_only(capsys):
    run(StderrProgress())
    out, err = capsys.readouterr()
    assert (out, err) == ("", "warning: [bold] is no markup\n")


def test_a_log_gets_a_line_when_time_has_passed(capsys, monkeypatch):
    clock = iter([0.0, 10.0, 31.0, 40.0, 62.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with StderrProgress() as display:
        display.start("step0", 6_200)
        for _ in range(4):
            display.advance(1_550)
    assert capsys.readouterr().err.splitlines() == [
        "step0: 3,100 of 6,200 tokens (50 %), 100 tokens/s, 1 min left",
        "step0: 6,200 of 6,200 tokens (100 %), 100 tokens/s, 0 min left",
    ]


def test_a_terminal_gets_a_bar_with_tokens_per_second(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run(StderrProgress())
    out, err = capsys.readouterr()
    assert out == ""
    assert "step0" in err
    assert "tokens/s" in err
    assert "100 %" in err
