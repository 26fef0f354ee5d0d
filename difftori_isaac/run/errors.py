"""Errors that a user reads as one line."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ConfigError(ValueError):
    """What was asked for cannot be: names the value and what is allowed. Exit code 2."""


class RunError(RuntimeError):
    """What was asked for went wrong on the way: says what happened and what to do. Exit code 1."""


def unknown_key(key: str, known: Iterable[str]) -> str:
    """One line about a key that does not exist, with the closest ones that do."""
    known = list(known)
    leaf = key.rsplit(".", 1)[-1]
    close = get_close_matches(key, known, n=3)
    close += [name for name in known if name.rsplit(".", 1)[-1] == leaf and name not in close]
    leaves = get_close_matches(leaf, [name.rsplit(".", 1)[-1] for name in known], n=2)
    close += [name for name in known if name.rsplit(".", 1)[-1] in leaves and name not in close]
    roots = ", ".join(sorted({name.split(".")[0] for name in known}))
    hint = f"did you mean {' or '.join(close[:3])}?" if close else f"allowed: {roots}"
    return f"unknown key {key!r}; {hint} (--help lists all keys)"
