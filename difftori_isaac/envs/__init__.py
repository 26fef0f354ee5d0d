"""Doors to simulators, one module each behind the contract in ``vec_env``. Imports nothing else of the project."""
