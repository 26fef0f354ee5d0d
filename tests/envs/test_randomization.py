"""What robots are trained with beside plain observations: a critic that knows more, random masses, late commands."""

from __future__ import annotations

from contextlib import closing

import gymnasium
import pytest
import torch

from difftori_isaac.envs.isaaclab import load_ppo_settings, make_env
from difftori_isaac.learners.config import PPOConfig
from difftori_isaac.learners.ppo import build_ppo
from difftori_isaac.trajopt.config import TrajOptConfig
from difftori_isaac.world_models.config import WorldModelConfig

pytestmark = pytest.mark.sim
TASK, NUM_ENVS, DELAY = "Test-Lift-Randomized", 8, 4


def make_cfg():
    from isaaclab.actuators import DelayedPDActuatorCfg
    from isaaclab.envs import mdp
    from isaaclab.managers import EventTermCfg, SceneEntityCfg

    from difftori_isaac.tasks.lift.lift_point_cloud_env_cfg import LiftPointCloudEnvCfg

    cfg = LiftPointCloudEnvCfg()
    cfg.events.mass = EventTermCfg(
        func=mdp.randomize_rigid_body_mass,
        mode="reset",
        params={
            "asset_cfg": SceneEntityCfg("object"),
            "mass_distribution_params": (0.5, 2.0),
            "operation": "scale",
        },
    )
    cfg.events.friction = EventTermCfg(
        func=mdp.randomize_rigid_body_material,
        mode="reset",
        params={
            "asset_cfg": SceneEntityCfg("object"),
            "static_friction_range": (0.4, 1.2),
            "dynamic_friction_range": (0.4, 1.2),
            "restitution_range": (0.0, 0.0),
            "num_buckets": 16,
        },
    )
    arm = cfg.scene.robot.actuators["panda_arm"]
    cfg.scene.robot.actuators["panda_arm"] = DelayedPDActuatorCfg(
        joint_names_expr=arm.joint_names_expr,
        joint_effort_limit=arm.joint_effort_limit,
        stiffness=arm.stiffness,
        damping=arm.damping,
        armature=arm.armature,
        min_delay=DELAY,
        max_delay=DELAY,
    )
    return cfg


@pytest.fixture(scope="module")
def env():
    kwargs = {
        "env_cfg_entry_point": make_cfg,
        "rsl_rl_cfg_entry_point": "difftori_isaac.tasks.lift.agents.rsl_rl_ppo_cfg:LiftPointCloudPPORunnerCfg",
    }
    gymnasium.register(TASK, "isaaclab.envs:ManagerBasedRLEnv", disable_env_checker=True, kwargs=kwargs)
    with closing(make_env(TASK, num_envs=NUM_ENVS, device="cpu", seed=0)) as env:
        yield env
    gymnasium.registry.pop(TASK)


def test_masses_are_drawn_at_every_reset_beside_frictions(env):
    def masses():
        return env.unwrapped.scene["object"].data.body_mass.torch.flatten().clone()

    env.reset()
    first = masses()
    assert first.min() >= 0.05 and first.max() <= 0.2 and len(first.unique()) == NUM_ENVS
    env.reset()
    assert not torch.equal(masses(), first)


def test_commands_arrive_late(env):
    """A joint does not move in the two control steps, of two physics steps each, that its command is on the way."""
    env.reset()
    for _ in range(3):  # a command waits only behind others
        still, *_ = env.step(torch.zeros(NUM_ENVS, env.num_actions))
    moved = []
    for _ in range(4):
        obs, *_ = env.step(torch.ones(NUM_ENVS, env.num_actions))
        moved.append((obs["policy"] - still["policy"])[:, :7].abs().amax())
    assert moved[1] < 0.02 and moved[3] > 0.05, moved


def test_an_actor_with_a_point_cloud_and_a_critic_with_the_state_are_trained(env):
    learner = PPOConfig(num_steps_per_env=6, num_mini_batches=2, actor_hidden_dims=(32, 16), critic_hidden_dims=(32,))
    learner = learner.filled_from(load_ppo_settings(TASK))
    algorithm = build_ppo(
        env,
        policy="trajopt",
        trajopt=TrajOptConfig(horizon=3),
        world_model=WorldModelConfig().filled_from(learner.actor_hidden_dims, learner.activation),
        learner=learner,
        device="cpu",
    )
    before = {name: parameter.clone() for name, parameter in algorithm.actor.encoders.named_parameters()}
    obs = env.get_observations()
    assert (obs["policy"].shape, obs["point_cloud"].shape) == ((NUM_ENVS, 33), (NUM_ENVS, 64, 3))
    assert (algorithm.actor.obs_dim, algorithm.critic.obs_dim) == (33, 36)
    cube = obs["critic"][:, 18:21]
    # 64 points drawn on a cube of 48 mm: their mean has a standard deviation of at most 2.3 mm
    torch.testing.assert_close(obs["point_cloud"].mean(dim=1), cube, rtol=0, atol=0.01)
    assert (obs["point_cloud"] - cube[:, None]).abs().max() <= 0.024 * 3**0.5 + 1e-5
    with torch.inference_mode():
        for _ in range(algorithm.storage.num_transitions_per_env):
            obs, rewards, dones, extras = env.step(algorithm.act(obs))
            algorithm.process_env_step(obs, rewards, dones, extras)
        algorithm.compute_returns(obs)
    statistics = algorithm.update()
    assert statistics["grad_features"] > 0 and statistics["update_solver_failures"] == 0
    assert all(torch.isfinite(torch.tensor(value)) for value in statistics.values())
    for name, parameter in algorithm.actor.encoders.named_parameters():
        assert parameter.isfinite().all() and not torch.equal(parameter, before[name]), name
