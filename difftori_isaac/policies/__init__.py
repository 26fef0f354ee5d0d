"""Observation to action through a plan."""
