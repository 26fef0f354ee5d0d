"""Learner settings of the reach task."""
