"""Files of demonstrations: what is written is read, other layouts and bad numbers are refused in one sentence."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch

from difftori_isaac.data.demonstrations import Demonstration, read, writing


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
    assert demo.obs["policy"].shape == (4, 3) and demo.rewards.tolist() == [0, 0, 0, 0]


def test_a_file_that_is_not_finished_is_not_there(tmp_path):
    path = tmp_path / "demos.hdf5"
    write(path, [make_demo(4)])
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), writing(path, {}) as writer:
        writer.add(make_demo(2))
        raise KeyboardInterrupt
    assert [item.name for item in tmp_path.iterdir()] == ["demos.hdf5"] and path.read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda demo: demo.pop("actions"), "demo_0 has no actions; it has: dones, obs, rewards"),
        (lambda demo: demo["obs"].pop("policy"), "demo_0 has no observation group policy; it has: pixels"),
        (lambda demo: demo["actions"].__setitem__((1, 1), np.nan), "demo_0, actions is not finite everywhere"),
        (lambda demo: (demo.pop("rewards"), demo.__setitem__("rewards", np.zeros(3))), "different or no samples"),
    ],
)
def test_bad_demonstrations_are_refused(tmp_path, damage, message):
    write(tmp_path / "demos.hdf5", [make_demo(4)])
    with h5py.File(tmp_path / "demos.hdf5", "r+") as file:
        damage(file["data/demo_0"])
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "demos.hdf5", ["policy"])


def test_bad_files_are_refused(tmp_path):
    (tmp_path / "text.hdf5").write_text("no demonstrations")
    with h5py.File(tmp_path / "empty.hdf5", "w") as file:
        file["data/mask"] = np.zeros(2)
    write(tmp_path / "demos.hdf5", [make_demo(4)])
    for name, message in (("none", "there is no such file"), ("text", "signature"), ("empty", "no data/demo_<number>")):
        with pytest.raises(ValueError, match=message):
            read(tmp_path / f"{name}.hdf5", ["policy"])
    with pytest.raises(ValueError, match="has 1, but 2 are asked for"):
        read(tmp_path / "demos.hdf5", ["policy"], 2)
