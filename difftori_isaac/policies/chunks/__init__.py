"""Imitation policies: observations to a chunk of actions, of which the first is executed."""
