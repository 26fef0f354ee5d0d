"""What a user writes: the dynamics of a system as a Warp function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from importlib import import_module
from pickle import PicklingError
from typing import Any


@dataclass(frozen=True, kw_only=True, eq=False)
class WarpSystem:
    """Discrete dynamics ``z⁺ = step(z, a, p)`` and outputs ``y = outputs(z, p)`` as Warp functions.

    The arguments are Warp vectors: the state ``z``, the action ``a``, and ``p``, the physical parameters in the order
    of ``parameters`` followed by the time step [s]. Annotate them with ``Any`` and build results with ``type(z)(...)``
    and constants with ``z.dtype(0.5)``, and one function serves float32 and float64. Derivatives are taken by Warp, so
    both functions must be differentiable in Warp's sense and write to no array.
    """

    step: Callable[..., Any]
    """State after one time step."""
    state_dim: int
    """Components of ``z``."""
    action_dim: int
    """Components of ``a``."""
    parameters: tuple[str, ...]
    """Names of the physical parameters."""
    outputs: Callable[..., Any] | None = None
    """What the cost looks at, as a vector that ``outputs`` builds; ``None`` is the state itself."""
    num_outputs: int | None = None
    """Components of ``y``; as many as the state's if not given."""

    def __post_init__(self) -> None:
        for name in ("state_dim", "action_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: an integer of at least 1")
        if (self.outputs is None) != (self.num_outputs is None):
            raise ValueError(
                f"outputs is {self.outputs} and num_outputs is {self.num_outputs}; allowed: both or neither"
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> WarpSystem:
        return self  # copies of a model share its kernels

    def __reduce__(self) -> tuple[Any, ...]:
        """A Warp function cannot be pickled; its name can."""
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        names = {name: _name(settings.pop(name)) for name in ("step", "outputs")}
        return _named, (settings, names)

    @property
    def output_dim(self) -> int:
        """Components of ``y``."""
        return self.num_outputs or self.state_dim

    @property
    def num_params(self) -> int:
        """Components of ``p``: the physical parameters and the time step."""
        return len(self.parameters) + 1


def _name(function: Any) -> tuple[str, str] | None:
    """Module and name that a Warp function is found by."""
    if function is None:
        return None
    python = getattr(function, "func", function)
    module, name = python.__module__, python.__qualname__
    if getattr(import_module(module), name, None) is not function:
        raise PicklingError(f"the Warp function {name} cannot be pickled; allowed: one of that name in {module}")
    return module, name


def _named(settings: dict[str, Any], names: dict[str, tuple[str, str] | None]) -> WarpSystem:
    """The system whose functions have these names."""
    functions: dict[str, Any] = {key: name and getattr(import_module(name[0]), name[1]) for key, name in names.items()}
    return WarpSystem(**settings, **functions)
