"""Learner settings of the lift task."""
