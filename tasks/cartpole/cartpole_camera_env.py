"""Isaac Lab's cart-pole seen through a camera: the last grayscale pictures in place of joint states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from isaaclab_tasks.core.cartpole.cartpole_direct_env import CartpoleEnv

if TYPE_CHECKING:
    from difftori_isaac.tasks.cartpole.cartpole_camera_env_cfg import CartpoleCameraEnvCfg

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class CartpoleCameraEnv(CartpoleEnv):
    """Observation groups ``pixels`` for the actor and ``critic``, the joint states.

    ``pixels`` are the last pictures, oldest first, uint8 of shape (num_envs, frame_stack, height, width). At the
    start of an episode they are all the same.
    """

    cfg: CartpoleCameraEnvCfg

    def __init__(self, cfg: CartpoleCameraEnvCfg, render_mode: str | None = None, **kwargs: object) -> None:
        camera = cfg.scene.camera
        cfg.observation_space = [cfg.frame_stack, camera.height, camera.width]
        super().__init__(cfg, render_mode, **kwargs)
        self._frames = torch.zeros(self.num_envs, *cfg.observation_space, dtype=torch.uint8, device=self.device)
        self._is_first = torch.ones(self.num_envs, 1, 1, 1, dtype=torch.bool, device=self.device)
        self._newest = -1

    def _get_observations(self) -> dict[str, torch.Tensor]:
        """Take a picture; a second one in the same step replaces the first, as after a reset."""
        rgb = self.scene["camera"].data.output["rgb"].torch[..., :3].float()
        frame = (rgb @ rgb.new_tensor(_LUMA)).round().to(torch.uint8)[:, None]
        earlier = self._frames[:, :-1] if self._newest == self.common_step_counter else self._frames[:, 1:]
        self._frames = torch.where(self._is_first, frame, torch.cat((earlier, frame), dim=1))
        self._is_first.fill_(False)
        self._newest = self.common_step_counter
        return {"pixels": self._frames, "critic": super()._get_observations()["policy"]}

    def _reset_idx(self, env_ids: Sequence[int] | None) -> None:
        super()._reset_idx(env_ids)
        self._is_first[slice(None) if env_ids is None else env_ids] = True
