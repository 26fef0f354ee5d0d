from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from difftori_isaac.run import signals
from difftori_isaac.run.signals import StopSignals


@pytest.fixture
def terminal() -> Iterator[None]:
    """A closed terminal is not ignored, as it would be under nohup, nor does it end the tests."""
    previous = signal.signal(signal.SIGHUP, lambda *_: None)
    yield
    signal.signal(signal.SIGHUP, previous)


def test_a_closed_terminal_that_is_ignored_stays_so(terminal: None):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert stop.received is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2])
def test_first_signal_asks_second_interrupt_aborts(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, terminal: None
):
    monkeypatch.setattr(signals, "ABORT_AFTER_S", 0.0)
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert stop.received is None
        signal.raise_signal(number)
        signal.raise_signal(signal.SIGTERM)
        assert stop.received is not None
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(number) is before


def test_an_interrupt_that_is_handed_on_twice_is_one():
    with StopSignals() as stop:
        signal.raise_signal(signal.SIGINT)
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            pytest.fail("the signal aborts")
        assert stop.received == "SIGINT"
