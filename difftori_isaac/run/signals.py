"""Stopping a run from outside without losing work."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any, Self


class StopSignals:
    """Context in which SIGINT, SIGTERM and SIGUSR2 only ask to stop; a second SIGINT aborts.

    SIGUSR2 is what a job that is about to be preempted gets, on clusters that send it to every process of the job.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        """Name of the signal that asked to stop; None if none did."""
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Takes over the signals."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
