"""An environment that does harm when told to. Imported by name, so that processes can make it too."""

import os
import time
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

NOTHING, END, NAN_REWARD, NAN_OBS, HUGE_REWARD, HUGE_OBS, RAISE, DIE, WAIT = range(9)
HUGE = 1e39
"""Finite, but not in float32."""


class HandMadeEnv(gymnasium.Env[Any, np.ndarray]):
    """Its state is a number drawn at the start of an episode and the step in it; the action says what happens next."""

    def __init__(self) -> None:
        self.observation_space = Dict({"policy": Box(-np.inf, np.inf, (2,), np.float32)})
        self.action_space = Box(-np.inf, np.inf, (1,), np.float32)
        self.metadata = {"render_fps": 20}

    def reset(self, *, seed: int | None = None, options: Any = None):
        super().reset(seed=seed)
        self.state = np.array([self.np_random.random(), 0.0])
        return {"policy": self.state}, {}

    def step(self, action: np.ndarray):
        self.state = self.state + np.array([0.0, 1.0])
        what = int(action[0])
        if what == RAISE:
            raise KeyError("no such\nthing")
        if what == WAIT:
            time.sleep(60)
        if what == DIE:
            os._exit(3)
        obs = np.full(2, {NAN_OBS: np.nan, HUGE_OBS: HUGE}[what]) if what in (NAN_OBS, HUGE_OBS) else self.state
        reward = {NAN_REWARD: np.nan, HUGE_REWARD: HUGE}.get(what, 1.0)
        return {"policy": obs}, reward, what == END, False, {"success": what != END}

    def render(self):
        return np.full((4, 6, 3), 7, np.uint8)
