"""The contract of environments, on a hand-made one: in this process and in several."""

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from difftori_isaac.envs.env_slice import EnvSlice, Recipe
from difftori_isaac.envs.errors import SimulatorError
from difftori_isaac.envs.gymnasium_vec_env import GymnasiumVecEnv
from difftori_isaac.envs.worker_pool import WorkerPool
from difftori_isaac.run.config import EvaluateConfig
from difftori_isaac.run.evaluate import run_episodes

HERE = Path(__file__).parent
NUM_ENVS, LIMIT = 5, 7


@pytest.fixture(scope="module", autouse=True)
def hand_made() -> Iterator:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        yield importlib.import_module("hand_made")


def make(num_workers: int = 1, *, num_envs: int = NUM_ENVS, limit: int = LIMIT, seed: int = 0) -> GymnasiumVecEnv:
    recipe = Recipe("hand-made", sys.modules["hand_made"].HandMadeEnv, limit)
    return GymnasiumVecEnv(recipe, num_envs=num_envs, num_workers=num_workers, device="cpu", seed=seed, cfg={})


@pytest.fixture(scope="module")
def pool(hand_made) -> Iterator[GymnasiumVecEnv]:
    with closing(make(2)) as env:
        yield env


def act(env: GymnasiumVecEnv, **commands: int):
    """Steps; `e3=NAN_OBS` commands environment 3."""
    actions = torch.zeros(env.num_envs, 1, requires_grad=True) + 0.0
    for name, command in commands.items():
        actions[int(name[1:])] = command
    return env.step(actions)


@given(num_envs=st.integers(1, 4), limit=st.integers(1, 5), steps=st.integers(1, 12))
def test_episodes_end_at_the_time_limit(num_envs, limit, steps):
    with closing(make(num_envs=num_envs, limit=limit)) as env:
        starts = env.get_observations()["policy"][:, 0]
        for step in range(1, steps + 1):
            obs, rewards, dones, extras = act(env)
            ended = step % limit == 0
            assert dones.tolist() == [ended] * num_envs and extras["time_outs"].tolist() == [ended] * num_envs
            assert rewards.tolist() == [1.0] * num_envs and not extras["nonfinite"].any()
            assert env.episode_length_buf.tolist() == [step % limit] * num_envs
            assert obs["policy"][:, 1].tolist() == [step % limit] * num_envs
            assert ("final_obs" in extras) == ended
            if ended:  # the last observation of the old episode, the first of the new
                assert torch.equal(
                    extras["final_obs"]["policy"], torch.stack([starts, torch.full_like(starts, limit)], 1)
                )
                assert not torch.equal(obs["policy"][:, 0], starts)
                starts = obs["policy"][:, 0]


@pytest.mark.parametrize("kind", ["NAN", "HUGE"])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_what_is_not_finite_stays_in_its_environment(hand_made, pool, num_workers, kind):
    env = pool if num_workers == 2 else make()
    env.reset()
    start = env.get_observations()["policy"][:, 0]
    spoilt_obs, spoilt_reward = getattr(hand_made, f"{kind}_OBS"), getattr(hand_made, f"{kind}_REWARD")
    obs, rewards, dones, extras = act(env, e0=spoilt_obs, e1=spoilt_reward, e3=hand_made.END)
    assert extras["nonfinite"].tolist() == [True, True, False, False, False]
    assert rewards.tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]
    assert dones.tolist() == [1, 1, 0, 1, 0]
    assert not extras["time_outs"].any()
    assert obs["policy"].isfinite().all() and extras["final_obs"]["policy"].isfinite().all()
    assert obs["policy"][:, 1].tolist() == [0.0, 0.0, 1.0, 0.0, 1.0]
    assert (obs["policy"][:, 0] == start).tolist() == [False, False, True, False, True]
    assert extras["final_obs"]["policy"][0].tolist() == [0.0, 0.0]
    assert extras["final_obs"]["policy"][3].tolist() == [start[3].item(), 1.0]


def test_what_ends_by_itself_at_the_time_limit_is_not_truncated(hand_made):
    with closing(make(num_envs=3, limit=1)) as env:
        *_, dones, extras = act(env, e0=hand_made.END, e1=hand_made.NAN_OBS)
        assert dones.tolist() == [1, 1, 1] and extras["time_outs"].tolist() == [False, False, True]


def test_processes_change_nothing(pool):
    with closing(make()) as env:
        for workers in (env, pool):
            torch.manual_seed(3)
            workers.reset()
        for _ in range(2 * LIMIT):
            for here, there in zip(act(env)[:3], act(pool)[:3], strict=True):
                assert (here == there).all()


def test_the_seed_decides():
    first = [make(seed=seed).get_observations()["policy"] for seed in (0, 0, 1)]
    assert torch.equal(first[0], first[1]) and not torch.equal(first[0], first[2])
    assert len(first[0][:, 0].unique()) == NUM_ENVS


def test_staggered_episodes_end_apart(pool):
    torch.manual_seed(0)
    pool.reset(stagger=True)
    ages = pool.episode_length_buf
    assert len(ages.unique()) > 1
    for step in range(1, LIMIT + 1):
        assert act(pool)[2].tolist() == (ages + step == LIMIT).tolist()


def test_an_evaluation_counts_the_first_episodes_of_every_environment_and_their_successes():
    """Every step ends an episode of the first environment, which fails; the second gets to the time limit."""
    with closing(make(num_envs=2)) as env:
        ends = torch.tensor([[float(sys.modules["hand_made"].END)], [0.0]])
        result = run_episodes(EvaluateConfig(task="hand-made", num_episodes=3), env, lambda obs: ends)
        assert result["success_rate"] == pytest.approx(1 / 3)
        assert result["episode_length"]["mean"] == result["return"]["mean"] == (1 + 1 + LIMIT) / 3


def test_tensors_are_no_views_of_what_comes_next():
    env = make()
    obs, rewards, dones, _ = act(env)
    before = obs["policy"].clone(), rewards.clone(), dones.clone()
    act(env, e0=1)
    assert all(torch.equal(a, b) for a, b in zip((obs["policy"], rewards, dones), before, strict=True))


def test_pictures_and_step_time(pool):
    assert pool.render_frame().shape == (4, 6, 3)
    assert pool.step_dt == pytest.approx(0.05)


def test_an_environment_that_cannot_be_made_is_named():
    def make_none():
        raise OSError("no display")

    with pytest.raises(SimulatorError, match=r"^environment 2 of hand-made failed: OSError: no display$"):
        EnvSlice(Recipe("hand-made", make_none, max_episode_length=1), range(2, 4))


@pytest.mark.parametrize(
    ("num_workers", "command", "message"),
    [
        (1, "RAISE", r"environment 4 of hand-made failed: KeyError: 'no such\\nthing'"),
        (2, "RAISE", r"environment 4 of hand-made failed: KeyError: 'no such\\nthing'"),
        (2, "DIE", r"the process of environments 2 to 4 of hand-made died \(exit code 3\)"),
    ],
)
def test_a_failing_environment_ends_all_with_one_line(hand_made, num_workers, command, message):
    env = make(num_workers)
    with pytest.raises(SimulatorError, match=f"^{message}$"):
        act(env, e4=getattr(hand_made, command))
    if num_workers > 1:
        assert all(worker.process.returncode is not None for worker in env._envs._workers)
        with pytest.raises(SimulatorError):
            act(env)
    env.close()


def test_busy_workers_are_waited_for_together(hand_made, monkeypatch):
    patience, num_workers = 0.5, 4
    monkeypatch.setattr("difftori_isaac.envs.worker_pool._PATIENCE_S", patience)
    pool = make(num_workers)._envs
    assert isinstance(pool, WorkerPool)
    pool.data["actions"] = hand_made.WAIT
    for worker in pool._workers:
        worker.pipe.send(("step", ()))
    start = time.monotonic()
    pool.close()
    assert patience <= time.monotonic() - start < num_workers * patience
    assert all(worker.process.returncode == -signal.SIGKILL for worker in pool._workers)


def test_workers_leave_signals_to_the_parent(pool):
    for worker in pool._envs._workers:
        assert os.getsid(worker.process.pid) == worker.process.pid  # Ctrl-C goes to the terminal's session
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
            os.kill(worker.process.pid, number)
    act(pool)


@pytest.mark.parametrize("is_script", [True, False])
def test_workers_find_the_modules_of_the_parent(is_script: bool, tmp_path: Path):
    """Those of its folder, which of a script is not where it was started: what lies there hides none of Python's."""
    script = tmp_path / "scripts" / "act.py"
    script.parent.mkdir()
    code = (
        "import mine\n"
        "from difftori_isaac.envs.env_slice import Recipe\n"
        "from difftori_isaac.envs.worker_pool import WorkerPool\n"
        "WorkerPool(Recipe('mine', mine.Mine, 9), 2, 2).close()\n"
    )
    script.write_text(code)
    mine = "from hand_made import HandMadeEnv\n\nclass Mine(HandMadeEnv):\n    pass\n"
    (script.parent if is_script else tmp_path).joinpath("mine.py").write_text(mine)
    if is_script:
        (tmp_path / "random.py").write_text("raise SystemExit('not the random of Python')")
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, script] if is_script else [sys.executable, "-c", code]
    subprocess.run(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": path}, check=True)


@pytest.mark.parametrize("ending", ["raise SystemExit(5)", "os.kill(os.getpid(), 9)"])
def test_workers_end_with_the_parent(ending):
    code = (
        "import os, hand_made\n"
        "from difftori_isaac.envs.env_slice import Recipe\n"
        "from difftori_isaac.envs.worker_pool import WorkerPool\n"
        "pool = WorkerPool(Recipe('hand-made', hand_made.HandMadeEnv, 9), 2, 2)\n"
        "print(*(worker.process.pid for worker in pool._workers), flush=True)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(HERE)}
    done = subprocess.run([sys.executable, "-c", code + ending], env=environment, capture_output=True, text=True)
    workers = [Path(f"/proc/{pid}/cmdline") for pid in done.stdout.split()]
    assert done.returncode in (5, -9) and len(workers) == 2 and done.stderr == ""
    end = time.monotonic() + 10
    while any(path.exists() and path.read_text() for path in workers):  # of a zombie it is empty
        assert time.monotonic() < end
        time.sleep(0.02)
