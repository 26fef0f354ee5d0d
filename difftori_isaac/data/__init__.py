"""Demonstrations: reading and writing."""
