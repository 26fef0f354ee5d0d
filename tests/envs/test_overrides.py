import gymnasium
import pytest

from difftori_isaac.envs.isaaclab import compose_env_cfg, load_ppo_settings, make_env


def test_overrides_apply_in_order():
    cfg = compose_env_cfg("DiffTori-Lift-Franka", ["env.sim.dt=0.005", "env.decimation=4", "env.sim.dt=0.0025"])
    assert (cfg.sim.dt, cfg.decimation) == (0.0025, 4)


def test_a_preset_can_be_chosen_by_path_and_then_changed():
    overrides = ["env.sim.physics=newton_kamino", "env.sim.physics.solver_cfg.sparse_jacobian=false"]
    cfg = compose_env_cfg("DiffTori-Cartpole-Direct", overrides)
    assert cfg.sim.physics.solver_cfg.sparse_jacobian is False


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("env.sim.dtt=0.01", "Unknown key 'env.sim.dtt': env.sim has .*dt"),
        ("env.simm.dt=0.01", "Unknown key 'env.simm.dt': env has .*sim"),
        ("env.sim.dt.x=1", "env.sim.dt has no keys"),
        ("env.sim.dt=fast", "env.sim.dt is a float .*, not text"),
        ("env.decimation=", "not an override of the environment"),
        ("env.decimation=0", "env.decimation is 0; allowed: at least 1"),
        ("env.episode_length_s=-1", "env.episode_length_s is -1.*; allowed: at least"),
        ("env.seed=7", "'env.seed=7' would be overwritten; give seed=7 instead"),
        ("decimation=2", "allowed are env.KEY=VALUE, physics=NAME"),
        ("physics=bullet", "Unknown preset.*bullet.*newton_mjwarp"),
        ("renderer=newton_renderer", "renderer=newton_renderer"),
        ("env.sim.physics=bullet", "Unknown preset 'bullet' for env.sim.physics"),
    ],
)
def test_a_wrong_override_is_one_line(override, reason):
    with pytest.raises(ValueError, match=reason) as error:
        compose_env_cfg("DiffTori-Lift-Franka", [override])
    assert "\n" not in str(error.value)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="num_envs must be at least 1, got 0"):
        make_env("Cartpole", num_envs=0, device="cpu", seed=0)
    with pytest.raises(ValueError, match="device=cuda:99"):
        make_env("Cartpole", num_envs=1, device="cuda:99", seed=0)
    with pytest.raises(ValueError, match="several agents"):
        make_env("Isaac-Pendulum-MARL-Direct", num_envs=1, device="cpu", seed=0)


@pytest.mark.parametrize("kwarg", ["difftori_plan_path_entry_point", "difftori_expert_entry_point"])
@pytest.mark.parametrize("entry_point", ["difftori_isaac.tasks.plan_path:hand_pth", "nowhere:path", "no module"])
def test_an_entry_point_that_is_not_there_is_refused_before_the_simulator_starts(entry_point, kwarg, monkeypatch):
    task = "DiffTori-Reach-Franka"
    monkeypatch.setitem(gymnasium.spec(task).kwargs, kwarg, entry_point)
    with pytest.raises(ValueError, match=rf"{kwarg} of {task} is {entry_point}, .*; allowed: package"):
        make_env(task, num_envs=1, device="cpu", seed=0)


@pytest.mark.parametrize("entry_point", ["difftori_isaac.tasks.reach.reach_env_cfg:Nope", "nowhere.cfg:Cfg"])
@pytest.mark.parametrize(
    ("kwarg", "load"),
    [
        ("env_cfg_entry_point", compose_env_cfg),
        ("env_cfg_entry_point", load_ppo_settings),
        ("rsl_rl_cfg_entry_point", load_ppo_settings),
    ],
)
def test_a_configuration_that_is_not_there_is_refused(kwarg, load, entry_point, monkeypatch):
    task = "DiffTori-Reach-Franka"
    monkeypatch.setitem(gymnasium.spec(task).kwargs, kwarg, entry_point)
    message = rf"^{kwarg} of {task} is {entry_point}, which cannot be loaded .*; allowed: package.module:class$"
    with pytest.raises(ValueError, match=message):
        load(task)
