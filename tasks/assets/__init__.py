"""Robots as USD files in this repository, each with the script that writes it."""
