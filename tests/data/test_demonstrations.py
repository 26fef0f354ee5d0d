"""Files of demonstrations: what is written is read, other layouts and bad numbers are refused in one sentence."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch

from difftori_isaac.data.demonstrations import Demonstration, made_in, read, writing


def make_demo(length: int, seed: int = 0) -> Demonstration:
    generator = torch.Generator().manual_seed(seed)
    obs = {
        "policy": torch.randn(length, 3, generator=generator),
        "pixels": torch.randint(256, (length, 3, 8, 8), generator=generator).to(torch.uint8),
    }
    return Demonstration(obs, torch.randn(length, 2, generator=generator), torch.randn(length, generator=generator))


def write(path, demos):
    with writing(path, {"env_name": "Cart"}) as writer:
        for demo in demos:
            writer.add(demo)


def test_what_is_written_is_read(tmp_path):
    demos = [make_demo(length, seed) for seed, length in enumerate((4, 1, *[2] * 10))]
    write(tmp_path / "new" / "demos.hdf5", demos)
    for limit in (None, 2, 12):
        found = read(tmp_path / "new" / "demos.hdf5", ["pixels", "policy"], limit)
        for demo, expected in zip(found, demos[:limit], strict=True):
            assert demo.obs.keys() == {"pixels", "policy"} and demo.obs["pixels"].dtype == torch.uint8
            for name, tensor in demo.obs.items():
                assert torch.equal(tensor, expected.obs[name])
            assert torch.equal(demo.actions, expected.actions) and torch.equal(demo.rewards, expected.rewards)
            assert demo.executed is None


def test_executed_actions_are_written_beside_the_others(tmp_path):
    demo = make_demo(4)
    write(tmp_path / "demos.hdf5", [demo._replace(executed=demo.actions + 1.0)])
    (found,) = read(tmp_path / "demos.hdf5", ["policy"])
    assert torch.equal(found.actions, demo.actions) and torch.equal(found.executed, demo.actions + 1.0)
    with h5py.File(tmp_path / "demos.hdf5", "a") as file:
        del file["data/demo_0/executed_actions"]
        file["data/demo_0/executed_actions"] = np.zeros((4, 5))
    with pytest.raises(ValueError, match=r"executed_actions is of shape \(4, 5\); allowed: \(4, 2\)"):
        read(tmp_path / "demos.hdf5", ["policy"])


def test_rewards_may_be_a_column(tmp_path):
    demo = make_demo(4)
    write(tmp_path / "demos.hdf5", [demo._replace(rewards=demo.rewards[:, None])])
    (found,) = read(tmp_path / "demos.hdf5", ["policy"])
    assert torch.equal(found.rewards, demo.rewards)


def test_those_that_failed_are_left_out(tmp_path, capsys):
    """Isaac Lab's recorders write them too, with an attribute."""
    path, demos = tmp_path / "demos.hdf5", [make_demo(length) for length in (1, 2, 3)]
    write(path, demos)
    for failed, message in (([0], "1 of 3"), ([0, 2], "2 of 3")):
        with h5py.File(path, "a") as file:
            for index in range(3):
                file[f"data/demo_{index}"].attrs["success"] = index not in failed
        found = read(path, ["policy"])
        assert [len(demo.actions) for demo in found] == [length for length in (1, 2, 3) if length - 1 not in failed]
        assert capsys.readouterr().out == f"note: {message} demonstrations in {path} with success=False: left out\n"
    with pytest.raises(ValueError, match="has 1, but 2 are asked for"):
        read(path, ["policy"], 2)
    with h5py.File(path, "a") as file:
        file["data/demo_1"].attrs["success"] = False
    assert len(read(path, ["policy"])) == 3
    assert capsys.readouterr().out.endswith(
        f"3 of 3 demonstrations in {path} with success=False: learned from, as there are no others\n"
    )


def test_numbers_are_float32_but_for_images(tmp_path):
    path = tmp_path / "demos.hdf5"
    write(path, [make_demo(4)])
    with h5py.File(path, "a") as file:
        demo = file["data/demo_0"]
        for name in ("rewards", "actions", "executed_actions", "obs/policy", "obs/cloud"):
            demo.pop(name, None)
            demo[name] = np.full({"rewards": 4, "obs/cloud": (4, 5, 3)}.get(name, (4, 2)), 200, np.uint8)
    (found,) = read(path, ["policy", "cloud", "pixels"])
    numbers = (found.rewards, found.actions, found.executed, found.obs["policy"], found.obs["cloud"])
    assert all(tensor.dtype == torch.float32 and (tensor == 200.0).all() for tensor in numbers)
    assert found.obs["pixels"].dtype == torch.uint8


def test_files_have_what_robomimic_asks_for(tmp_path):
    write(tmp_path / "demos.hdf5", [make_demo(4), make_demo(3)])
    with h5py.File(tmp_path / "demos.hdf5") as file:
        assert json.loads(file["data"].attrs["env_args"]) == {"env_name": "Cart"} and file["data"].attrs["total"] == 7
        demo = file["data/demo_1"]
        assert demo.attrs["num_samples"] == 3 and demo["dones"][()].tolist() == [False, False, True]
        assert demo["obs/policy"].shape == (3, 3) and demo["actions"].shape == (3, 2)


def test_a_single_array_of_observations_is_the_group_policy(tmp_path):
    """As Isaac Lab's recorder of flat observations writes them; without rewards, in float64."""
    with h5py.File(tmp_path / "demos.hdf5", "w") as file:
        demo = file.create_group("data/demo_0")
        demo["obs"], demo["actions"] = np.ones((4, 3)), np.zeros((4, 2))
    (demo,) = read(tmp_path / "demos.hdf5", ["policy"])
    assert demo.obs["policy"].dtype == demo.actions.dtype == torch.float32
    assert demo.obs["policy"].shape == (4, 3) and demo.rewards is demo.executed is None


def test_files_say_which_environment_they_were_made_in(tmp_path):
    path, kwargs = tmp_path / "demos.hdf5", {"env_kwargs": {"env_overrides": ["env.size=3"]}}
    for kind, found in (({"type": "difftori_isaac"}, ("Cart", ["env.size=3"])), ({"type": 1}, None), ({}, None)):
        with writing(path, {"env_name": "Cart"} | kwargs | kind) as writer:
            writer.add(make_demo(2))
        assert made_in(path) == found
    path.write_bytes(b"nonsense")
    assert made_in(path) is None


def test_a_file_that_is_not_finished_is_not_there(tmp_path):
    path = tmp_path / "demos.hdf5"
    write(path, [make_demo(4)])
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), writing(path, {}) as writer:
        writer.add(make_demo(2))
        raise KeyboardInterrupt
    assert [item.name for item in tmp_path.iterdir()] == ["demos.hdf5"] and path.read_bytes() == before


WRITE = """
import sys
from pathlib import Path
from difftori_isaac.data.demonstrations import writing
with writing(Path(sys.argv[1]), {"env_name": "Other"}):
    pass
"""


def test_a_program_that_writes_the_same_file_disturbs_none(tmp_path):
    path = tmp_path / "demos.hdf5"
    with writing(path, {"env_name": "Cart"}) as writer:
        writer.add(make_demo(4))
        subprocess.run([sys.executable, "-c", WRITE, path], check=True)
        with h5py.File(path) as file:
            assert json.loads(file["data"].attrs["env_args"]) == {"env_name": "Other"}
    assert [item.name for item in tmp_path.iterdir()] == ["demos.hdf5"] and len(read(path, ["policy"])) == 1


FULL_DISK = """
import resource, sys
from pathlib import Path
import torch
from difftori_isaac.data.demonstrations import Demonstration, writing
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, resource.RLIM_INFINITY))
try:
    with writing(Path(sys.argv[1]), {}) as writer:
        for _ in range(20):
            writer.add(Demonstration({"policy": torch.randn(1000, 3)}, torch.randn(1000, 2), None))
except OSError as error:
    print(error.strerror)
"""


def test_a_full_disk_is_an_error_and_not_a_crash(tmp_path):
    path = tmp_path / "demos.hdf5"
    write(path, [make_demo(4)])
    before = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "File too large\n"), done.stderr
    assert [item.name for item in tmp_path.iterdir()] == ["demos.hdf5"] and path.read_bytes() == before


def replace(group: h5py.Group, name: str, value) -> None:
    """Put an array, or for None a group, in the place of another."""
    del group[name]
    if value is None:
        group.create_group(name)
    else:
        group[name] = value


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda demo: demo.pop("actions"), "demo_0 has no actions; it has: dones, obs, rewards"),
        (lambda demo: replace(demo.parent, "demo_0", np.zeros(2)), "demo_0 is an array; allowed: a group"),
        (lambda demo: replace(demo, "actions", None), "demo_0, actions is a group; allowed: an array"),
        (lambda demo: replace(demo["obs"], "policy", None), "demo_0, observation group policy is a group"),
        (lambda demo: replace(demo, "actions", 1.0), r"demo_0, actions is of type float64 and shape \(\); allowed:"),
        (lambda demo: replace(demo, "actions", ["left"] * 4), r"demo_0, actions is of type object and shape \(4,\)"),
        (
            lambda demo: demo["obs"].pop("policy"),
            "demo_0 has no observation group policy; it has: pixels .Isaac Lab records a whole group",
        ),
        (lambda demo: demo["actions"].__setitem__((1, 1), np.nan), "demo_0, actions is not finite everywhere"),
        (lambda demo: replace(demo, "rewards", np.zeros(3)), "demo_0 has different or no samples"),
        (
            lambda demo: replace(demo, "rewards", np.zeros((4, 2))),
            r"demo_0, rewards is of shape \(4, 2\); allowed: \(4,\)",
        ),
    ],
)
def test_bad_demonstrations_are_refused(tmp_path, damage, message):
    write(tmp_path / "demos.hdf5", [make_demo(4)])
    with h5py.File(tmp_path / "demos.hdf5", "r+") as file:
        damage(file["data/demo_0"])
    with pytest.raises(ValueError, match=rf"demos\.hdf5: {message}"):
        read(tmp_path / "demos.hdf5", ["policy"])


@pytest.mark.filterwarnings("error")
def test_numbers_beyond_float32_are_refused_without_a_warning(tmp_path):
    write(tmp_path / "demos.hdf5", [make_demo(4)])
    with h5py.File(tmp_path / "demos.hdf5", "r+") as file:
        replace(file["data/demo_0"], "actions", np.full((4, 2), 1e300))
    with pytest.raises(ValueError, match="demo_0, actions is not finite everywhere"):
        read(tmp_path / "demos.hdf5", ["policy"])


def test_demonstrations_of_different_shapes_are_refused(tmp_path):
    demo, path = make_demo(4), tmp_path / "demos.hdf5"
    other = {"actions": torch.zeros(4, 5), "obs": demo.obs | {"policy": torch.zeros(4, 7)}}
    for name, what in (("actions", r"actions of shape \(5,\)"), ("obs", r"observation group policy of shape \(7,\)")):
        write(path, [demo, demo, demo._replace(**{name: other[name]})])
        assert len(read(path, ["policy"], 2)) == 2
        with pytest.raises(ValueError, match=rf"demos\.hdf5: demo_2 has {what}; allowed: .*, as in demo_0"):
            read(path, ["policy"])


def test_pictures_of_different_types_are_refused(tmp_path):
    demo, path = make_demo(4), tmp_path / "demos.hdf5"
    write(path, [demo, demo._replace(obs={"pixels": demo.obs["pixels"].float()})])
    message = r"demo_1 has observation group pixels of shape \(3, 8, 8\) as float; allowed: \(3, 8, 8\) as uint8, as in"
    with pytest.raises(ValueError, match=message):
        read(path, ["pixels"])


@pytest.mark.parametrize("place", [0.1, 0.3, 0.5, 0.7])
def test_damaged_files_are_refused(tmp_path, place):
    """Wherever the bytes of the file's own structure, among the many of its arrays, are wrong."""
    path = tmp_path / "demos.hdf5"
    write(path, [make_demo(1) for _ in range(4)])
    content = path.read_bytes()
    nodes = [match.start() for match in re.finditer(b"SNOD|TREE|HEAP", content)]
    at = nodes[int(place * len(nodes))]
    path.write_bytes(content[:at] + bytes(64) + content[at + 64 :])
    with pytest.raises(ValueError, match=r"demos\.hdf5.* cannot be read: .*; allowed: an HDF5 file that is whole"):
        read(path, ["pixels", "policy"])


def test_bad_files_are_refused(tmp_path):
    (tmp_path / "text.hdf5").write_text("no demonstrations")
    with h5py.File(tmp_path / "empty.hdf5", "w") as file:
        file["data/mask"] = np.zeros(2)
    with h5py.File(tmp_path / "array.hdf5", "w") as file:
        file["data"] = np.zeros(2)
    write(tmp_path / "demos.hdf5", [make_demo(4)])
    messages = {"none": "there is no such file", "text": "signature"}
    messages |= dict.fromkeys(("empty", "array"), "no data/demo_<number>")
    for name, message in messages.items():
        with pytest.raises(ValueError, match=message):
            read(tmp_path / f"{name}.hdf5", ["policy"])
    with pytest.raises(ValueError, match="has 1, but 2 are asked for"):
        read(tmp_path / "demos.hdf5", ["policy"], 2)
