"""What asks a run to stop."""

import signal

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
"""Signals that the main process answers; processes of environments leave them to it.

SIGHUP is what a closed terminal sends, SIGUSR2 what a job that is about to be preempted gets, on clusters that send it
to every process of the job.
"""
