"""Learner settings of the ant task."""
