"""The wrapper around real environments: direct workflow (cart-pole) and manager-based workflow (lift)."""

from contextlib import closing
from typing import NamedTuple

import numpy as np
import pytest
import torch
from tensordict import TensorDict

from difftori_isaac.envs.isaaclab import IsaacLabVecEnv, VideoRequest, make_env
from difftori_isaac.run.config import EvaluateConfig
from difftori_isaac.run.evaluate import run_episodes

pytestmark = pytest.mark.sim

NUM_ENVS, STEPS, SPOILT_ENV, SPOILT_STEP = 6, 12, 2, 5
OTHERS = [env for env in range(NUM_ENVS) if env != SPOILT_ENV]


class Rollout(NamedTuple):
    obs: torch.Tensor
    rewards: torch.Tensor
    dones: torch.Tensor
    nonfinite: torch.Tensor
    logged: list[bool]


def roll_out(task: str, *, seed: int = 0, spoil=None) -> Rollout:
    """Takes STEPS random steps; `spoil(env, actions)` may do harm before step SPOILT_STEP."""
    generator = torch.Generator().manual_seed(1)
    steps = []
    with closing(make_env(task, num_envs=NUM_ENVS, device="cpu", seed=seed)) as env:
        for step in range(STEPS):
            actions = torch.randn(NUM_ENVS, env.num_actions, generator=generator)
            if spoil is not None and step == SPOILT_STEP:
                spoil(env, actions)
            obs, rewards, dones, extras = env.step(actions)
            assert torch.equal(env.get_observations()["policy"], obs["policy"])
            assert not extras["time_outs"].any()
            steps.append((obs["policy"], rewards, dones, extras["nonfinite"], bool(extras["log"])))
    *tensors, logged = zip(*steps, strict=True)
    return Rollout(*map(torch.stack, tensors), list(logged))


def _joint_velocity(value: float):
    def spoil(env: IsaacLabVecEnv, actions: torch.Tensor) -> None:
        robot = next(iter(env.unwrapped.scene.articulations.values()))
        velocity = torch.full((1, robot.num_joints), value)
        robot.write_joint_velocity_to_sim_index(velocity=velocity, env_ids=torch.tensor([SPOILT_ENV]).int())

    return spoil


def _object_pose(env: IsaacLabVecEnv, actions: torch.Tensor) -> None:
    pose = torch.full((1, 7), torch.nan)
    env.unwrapped.scene["object"].write_root_pose_to_sim_index(root_pose=pose, env_ids=torch.tensor([SPOILT_ENV]).int())


def _action(env: IsaacLabVecEnv, actions: torch.Tensor) -> None:
    actions[SPOILT_ENV] = torch.nan


@pytest.fixture(scope="module")
def healthy() -> dict[str, Rollout]:
    return {task: roll_out(task) for task in ("Cartpole", "Lift")}


@pytest.mark.parametrize(
    ("task", "spoil"),
    [
        pytest.param("Cartpole", _joint_velocity(torch.nan), id="cartpole-nan-velocity"),
        pytest.param("Cartpole", _joint_velocity(torch.inf), id="cartpole-inf-velocity"),
        pytest.param("Cartpole", _action, id="cartpole-nan-action"),
        pytest.param("Lift", _joint_velocity(torch.nan), id="lift-nan-velocity"),
        pytest.param("Lift", _object_pose, id="lift-nan-object"),
        pytest.param("Lift", _action, id="lift-nan-action"),
    ],
)
def test_nan_stays_in_its_environment(healthy, task, spoil):
    rollout = roll_out(task, spoil=spoil)
    expected = torch.zeros(STEPS, NUM_ENVS, dtype=torch.bool)
    expected[SPOILT_STEP, SPOILT_ENV] = True
    assert torch.equal(rollout.nonfinite, expected)
    assert torch.equal(rollout.dones, expected.long())
    assert rollout.rewards[SPOILT_STEP, SPOILT_ENV] == 0.0
    assert rollout.obs.isfinite().all()
    assert rollout.rewards.isfinite().all()
    # the neighbours do not notice, and the restart is no statistic
    assert torch.equal(rollout.obs[:, OTHERS], healthy[task].obs[:, OTHERS])
    assert torch.equal(rollout.rewards[:, OTHERS], healthy[task].rewards[:, OTHERS])
    assert rollout.logged == healthy[task].logged
    # the environment moves on from a new initial state
    after = rollout.obs[SPOILT_STEP:, SPOILT_ENV]
    assert not torch.equal(after[0], torch.zeros_like(after[0]))
    assert (after.diff(dim=0).abs().amax(dim=1) > 0).all()


def test_nan_in_a_first_observation_stays_in_its_environment(monkeypatch: pytest.MonkeyPatch):
    with closing(make_env("Cartpole", num_envs=NUM_ENVS, device="cpu", seed=0)) as env:
        restart, spoil = env.unwrapped._reset_idx, _joint_velocity(torch.nan)

        def restart_and_spoil(selected: torch.Tensor) -> None:
            restart(selected)
            spoil(env, torch.empty(0))

        with monkeypatch.context() as patch:
            patch.setattr(env.unwrapped, "_reset_idx", restart_and_spoil)
            obs, _ = env.reset()
        assert obs["policy"].isfinite().all() and not obs["policy"][SPOILT_ENV].any()
        for expected in (True, False):
            obs, _, _, extras = env.step(torch.zeros(NUM_ENVS, env.num_actions))
            assert obs["policy"].isfinite().all()
            assert extras["nonfinite"].tolist() == [expected and index == SPOILT_ENV for index in range(NUM_ENVS)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64, torch.bool])
def test_observations_are_float32_but_for_images(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    with closing(make_env("Cartpole", num_envs=NUM_ENVS, device="cpu", seed=0)) as env:
        observe = env.unwrapped._get_observations
        image = torch.ones(NUM_ENVS, 3, 4, 4, dtype=torch.uint8)
        monkeypatch.setattr(
            env.unwrapped, "_get_observations", lambda: {"policy": observe()["policy"].to(dtype), "pixels": image}
        )
        seen = [env.reset()[0]]
        env.episode_length_buf = torch.full_like(env.episode_length_buf, int(env.max_episode_length))
        obs, _, _, extras = env.step(torch.zeros(NUM_ENVS, env.num_actions))
        seen += [obs, extras["final_obs"], env.get_observations(), env._restart(torch.ones(NUM_ENVS).bool())]
        assert all((obs["policy"].dtype, obs["pixels"].dtype) == (torch.float32, torch.uint8) for obs in seen)


@pytest.mark.parametrize("task", ["Cartpole", "Lift"])
def test_the_seed_decides(healthy, task):
    again, other = roll_out(task), roll_out(task, seed=1)
    assert torch.equal(again.obs, healthy[task].obs)
    assert torch.equal(again.rewards, healthy[task].rewards)
    assert not torch.equal(other.obs, healthy[task].obs)


def test_episodes_end_together_and_are_reported_once():
    overrides = ["env.episode_length_s=0.5", "env.max_cart_pos=100.0"]
    with closing(make_env("Cartpole", num_envs=4, device="cpu", seed=0, overrides=overrides)) as env:
        assert env.max_episode_length == 30
        actions = torch.zeros(4, 1, requires_grad=True)
        for step in range(1, 62):
            obs, _, dones, extras = env.step(actions)
            assert not obs["policy"].requires_grad
            ended = step % 30 == 0
            assert dones.tolist() == [int(ended)] * 4
            assert extras["time_outs"].tolist() == [ended] * 4
            assert ("final_obs" in extras) == ended
            assert env.success_rate(extras) == (1.0 if ended else None)
            assert env.success_rate({"log": {"Metrics/success_rate": torch.tensor([1.0, 0.0])}}) == 0.5
            if ended:
                assert extras["final_obs"]["policy"].shape == (4, 4)
                assert not torch.equal(extras["final_obs"]["policy"], obs["policy"])
        env.unwrapped.cfg.max_cart_pos = -1.0
        env.episode_length_buf = torch.tensor([0, 0, 29, 29])
        _, _, dones, extras = env.step(actions)
        assert env.unwrapped.reset_time_outs.tolist() == [False, False, True, True]
        assert dones.all() and not extras["time_outs"].any(), "a failure at the time limit is none of its time-outs"


def test_an_evaluation_reports_the_successes_of_the_episodes_that_count(monkeypatch: pytest.MonkeyPatch):
    """The second environment fails every 10 steps, the last becomes NaN before the time limit and the third at it."""
    with closing(make_env("Cartpole", num_envs=4, device="cpu", seed=0)) as env:
        fails, spoils = torch.tensor([False, True, False, False]), {5: 3, 30: 2}
        ages, steps = lambda: env.episode_length_buf, iter(range(1, 31))
        monkeypatch.setattr(env.unwrapped, "_get_dones", lambda: (fails & (ages() == 10), ages() == 30))

        def policy(obs: TensorDict) -> torch.Tensor:
            actions = torch.zeros(4, 1)
            if (spoilt := spoils.get(next(steps))) is not None:
                actions[spoilt] = torch.nan
            return actions

        result = run_episodes(EvaluateConfig(task="Cartpole", num_episodes=4), env, policy)
    assert result["nonfinite_episodes"] == 2 and result["episode_length"]["mean"] == (30 + 10 + 30 + 5) / 4
    assert result["success_rate"] == 1 / 4


def test_managers_log_the_episodes_that_count():
    with closing(make_env("Lift", num_envs=4, device="cpu", seed=0)) as env:
        term = env.unwrapped.reward_manager.get_term_cfg("object_goal_tracking").func
        for counted, rate in (([0, 1, 2], 2 / 3), ([0, 1, 2, 3], 3 / 4), ([2], 0.0), ([], None), (None, 3 / 4)):
            env.reset()
            env.episode_length_buf = torch.full_like(env.episode_length_buf, int(env.max_episode_length))
            term._succeeded[:] = torch.tensor([True, True, False, True])
            chosen = None if counted is None else torch.isin(torch.arange(4), torch.tensor(counted))
            _, _, dones, extras = env.step(torch.zeros(4, env.num_actions), counted=chosen)
            assert dones.all() and (env.episode_length_buf == 0).all()
            assert env.success_rate(extras) == (rate if rate is None else pytest.approx(rate))


def test_curriculum_continues_from_a_saved_state():
    with closing(make_env("Lift", num_envs=2, device="cpu", seed=0)) as env:
        rewards = env.unwrapped.reward_manager
        env.step(torch.zeros(2, 8))
        state = env.state_dict()
        assert state["common_step_counter"] == 1
        assert rewards.get_term_cfg("action_rate").weight == pytest.approx(-1e-4)
        env.load_state_dict(state | {"common_step_counter": 10_001})
        assert env.unwrapped.common_step_counter == 10_001
        assert rewards.get_term_cfg("action_rate").weight == pytest.approx(-1e-1)


def test_curricula_are_held_and_begin_anew_where_a_state_is_loaded():
    with closing(make_env("Lift", num_envs=2, device="cpu", seed=0, overrides=["env.episode_length_s=0.1"])) as env:
        action_rate = env.unwrapped.reward_manager.get_term_cfg("action_rate")

        def weight_after(counter: int, *, hold: bool) -> float:
            env.load_state_dict({"common_step_counter": counter, "sim_step_counter": 4 * counter})
            if hold:
                env.hold_curricula()
            dones = [env.step(torch.zeros(2, env.num_actions))[2] for _ in range(12)]
            assert torch.stack(dones).any(dim=0).all()
            return action_rate.weight

        assert weight_after(9_995, hold=True) == pytest.approx(-1e-4)
        assert weight_after(9_995, hold=False) == pytest.approx(-1e-1)
        assert weight_after(9_995, hold=True) == pytest.approx(-1e-4), "the weight of the state before is undone"
        assert weight_after(10_001, hold=True) == pytest.approx(-1e-1)


def test_frames_are_drawn():
    video = VideoRequest(width=64, height=48)
    with closing(make_env("Cartpole", num_envs=2, device="cpu", seed=0, video=video)) as env:
        frames = []
        for _ in range(2):
            for _ in range(10):
                env.step(torch.ones(2, 1))
            frames.append(env.render_frame())
    assert frames[0].shape == (48, 64, 3)
    assert frames[0].dtype == np.uint8
    assert len(np.unique(frames[0].reshape(-1, 3), axis=0)) > 3
    assert not np.array_equal(*frames)


def test_frames_need_a_video_request():
    with (
        closing(make_env("Cartpole", num_envs=1, device="cpu", seed=0)) as env,
        pytest.raises(RuntimeError, match="pass video=VideoRequest"),
    ):
        env.render_frame()


def test_discrete_actions_are_refused():
    import gymnasium

    from difftori_isaac.tasks.cartpole.cartpole_env_cfg import CartpoleEnvCfg

    def make_cfg():
        cfg = CartpoleEnvCfg()
        cfg.action_space = {3}
        return cfg

    entry_point = "isaaclab_tasks.core.cartpole.cartpole_direct_env:CartpoleEnv"
    gymnasium.register(
        "Discrete-Cartpole", entry_point, disable_env_checker=True, kwargs={"env_cfg_entry_point": make_cfg}
    )
    with pytest.raises(
        ValueError, match=r"the actions of Discrete-Cartpole are Discrete\(3\); allowed: continuous ones"
    ):
        make_env("Discrete-Cartpole", num_envs=2, device="cpu", seed=0)
    gymnasium.registry.pop("Discrete-Cartpole")
    make_env("Cartpole", num_envs=2, device="cpu", seed=0).close()  # nothing is left of it
