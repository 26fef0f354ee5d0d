"""The tasks of MetaWorld, known without importing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from difftori_isaac.envs.metaworld_env import MetaWorldEnv

_NAMES = """
    assembly basketball bin-picking box-close button-press button-press-topdown button-press-topdown-wall
    button-press-wall coffee-button coffee-pull coffee-push dial-turn disassemble door-close door-lock door-open
    door-unlock drawer-close drawer-open faucet-close faucet-open hammer hand-insert handle-press handle-press-side
    handle-pull handle-pull-side lever-pull peg-insert-side peg-unplug-side pick-out-of-hole pick-place pick-place-wall
    plate-slide plate-slide-back plate-slide-back-side plate-slide-side push push-back push-wall reach reach-wall
    shelf-place soccer stick-pull stick-push sweep sweep-into window-close window-open
"""
"""MetaWorld 3.1.1, without the ending -v3."""

DEFAULT_NUM_ENVS = 8


@dataclass(frozen=True)
class MetaWorldTask:
    """A task of MetaWorld."""

    name: str

    def make(self, **settings: Any) -> MetaWorldEnv:
        """Makes an environment; see :class:`~difftori_isaac.envs.metaworld_env.MetaWorldEnv`."""
        from difftori_isaac.envs.metaworld_env import MetaWorldEnv

        return MetaWorldEnv(self.name, **settings)


TASKS = {f"{name}-v3": MetaWorldTask(f"{name}-v3") for name in _NAMES.split()}
"""Every task by its name."""
