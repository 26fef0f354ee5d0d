"""Learner settings of the cart-pole task."""
