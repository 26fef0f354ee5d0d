"""Doors to simulators. Imports nothing else of the project."""
