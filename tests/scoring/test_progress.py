"""Progress: silent where stderr is no terminal, except for what must be said."""

import sys

from opd_diag.scoring.progress import StderrProgress


def run(progress: StderrProgress) -> None:
    with progress:
        progress.start("step0", 100)
        progress.advance(60)
        progress.advance(-60)
        progress.advance(100)
        progress.say("warning: [bold] is no markup")


def test_a_pipe_gets_messages_only(capsys):
    run(StderrProgress())
    out, err = capsys.readouterr()
    assert (out, err) == ("", "warning: [bold] is no markup\n")


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
