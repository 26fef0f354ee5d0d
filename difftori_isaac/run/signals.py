"""Stopping a run from outside without losing work."""

from __future__ import annotations

import signal
import time
from types import FrameType, TracebackType
from typing import Any, Self

from difftori_isaac.envs.signals import STOP_SIGNALS

ABORT_AFTER_S = 2.0
"""A SIGINT this much later than the first is a second one [s]; a launcher such as `uv run` hands the first on twice."""


class StopSignals:
    """Context in which ``STOP_SIGNALS`` only ask to stop; a second SIGINT aborts.

    Where SIGHUP is ignored, as under nohup, it stays so.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        """Name of the signal that asked to stop; None if none did."""
        self._since = 0.0
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Takes over the signals."""
        for number in STOP_SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._since = signal.Signals(number).name, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._since > ABORT_AFTER_S:
            raise KeyboardInterrupt
