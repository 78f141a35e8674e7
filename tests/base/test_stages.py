"""The stages of long calls: silent unless a program asks for them, and printed by the command if they are long."""

import logging
import threading

import pytest

from keras_netvlad.base.stages import LOGGER, stage
from keras_netvlad.cli import stage_lines


def test_stages_are_silent_unless_logging_is_configured(capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with stage("verifying"):
        pass
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""


def test_a_program_can_log_them(caplog):
    with caplog.at_level(logging.DEBUG, "keras_netvlad"), stage("verifying"):
        pass
    assert [(record.levelname, record.getMessage()[:14]) for record in caplog.records] == [
        ("INFO", "verifying"),
        ("DEBUG", "verifying took"),
    ]


@pytest.fixture
def waits(monkeypatch):
    """Timers that a test fires by hand: `(seconds, function, is_running)`."""
    timers = []

    class Timer:
        def __init__(self, seconds, function, arguments):
            self.seconds, self.fire, self.is_running = seconds, lambda: function(*arguments), False
            timers.append(self)

        def start(self):
            self.is_running = True

        def cancel(self):
            self.is_running = False

    monkeypatch.setattr(threading, "Timer", Timer)
    return timers


def test_the_command_prints_a_stage_that_takes_more_than_a_few_seconds(waits, capsys):
    with stage_lines.stage_lines("export"):
        with stage("verifying"):
            (timer,) = waits
            assert (timer.seconds, timer.is_running) == (stage_lines.SECONDS, True)
            timer.fire()
            assert capsys.readouterr().err == "keras-netvlad export: verifying ...\n"
        assert not timer.is_running
        with pytest.raises(ValueError, match="differs"), stage("loading"):
            raise ValueError("differs")
        assert not waits[1].is_running
    assert capsys.readouterr().err == ""
    assert LOGGER.handlers == []
    with stage("later"):
        pass
    assert len(waits) == 2


def test_an_error_in_the_command_stops_the_wait(waits):
    def interrupted():
        LOGGER.info("loading")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), stage_lines.stage_lines("export"):
        interrupted()
    assert not waits[0].is_running
