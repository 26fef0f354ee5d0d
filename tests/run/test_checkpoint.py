from __future__ import annotations

import gc
import random
from dataclasses import fields
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from difftori_isaac.run import checkpoint as checkpoints
from difftori_isaac.run.errors import ConfigError, RunError
from difftori_isaac.run.results import Results


def same(first, second) -> bool:
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def test_what_is_read_is_what_was_written(tmp_path: Path, make_checkpoint):
    saved = make_checkpoint(3)
    loaded = checkpoints.load(checkpoints.save(saved, tmp_path, keep=3, best=True))
    for field in fields(saved):
        assert same(getattr(saved, field.name), getattr(loaded, field.name)), field.name


def test_the_best_return_is_known_without_taking_memory(tmp_path: Path, make_checkpoint, monkeypatch):
    """The replay buffer of a checkpoint stays in its file where only a number of it is asked for."""
    replay, kept, load = {"replay": torch.ones(2**20)}, [], checkpoints.load
    checkpoints.save(make_checkpoint(learner=replay, best_return=4.5), tmp_path, keep=1, best=True)

    def maps() -> bool:
        return any(str(tmp_path) in found.path for found in psutil.Process().memory_maps())

    path = checkpoints.find(tmp_path, "best")
    kept.append(load(path))
    assert not maps()
    monkeypatch.setattr(checkpoints, "load", lambda *args, **kwargs: kept.append(load(*args, **kwargs)) or kept[-1])
    assert Results(tmp_path).best_return == 4.5 and maps()
    kept.clear()
    gc.collect()
    assert not maps()
    checkpoints.discard_after(tmp_path, 0)
    assert not path.exists() and maps() and torch.equal(kept[-1].learner["replay"], replay["replay"])


def test_a_checkpoint_of_the_former_format_means_what_it_meant(tmp_path: Path, make_checkpoint, monkeypatch):
    parts = {
        "ppo": {"learner": {"name": "ppo"}, "world_model": {"name": "latent"}},
        "model_based": {"learner": {"name": "model_based"}, "world_model": {"name": "td"}},
    }
    for name, config in parts.items():
        saved = make_checkpoint(config=config | {"trajopt": {"discount": 0.99, "horizon": 3}})
        for version in (checkpoints.FORMER, checkpoints.FORMAT):
            monkeypatch.setattr(checkpoints, "FORMAT", version)
            path = checkpoints.save(saved, tmp_path / name, keep=3, best=False)
            monkeypatch.undo()
            config = checkpoints.load(path).config
            former = version == checkpoints.FORMER
            assert config["trajopt"] == {"discount": None if former and name == "model_based" else 0.99, "horizon": 3}
            assert ("head_hidden_dims" in config["world_model"]) == (former and name == "ppo")
            assert config["world_model"].get("head_hidden_dims") is None


def test_random_numbers_go_on_where_they_were():
    def draw():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()

    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    draw()
    state = checkpoints.rng_state()
    expected = draw()
    torch.manual_seed(2), np.random.seed(2), random.seed(2)
    checkpoints.set_rng_state(state)
    assert draw() == expected


def test_last_k_and_best_are_kept(tmp_path: Path, make_checkpoint):
    for iteration in range(1, 6):
        checkpoints.save(make_checkpoint(iteration), tmp_path, keep=2, best=iteration == 2)
    names = sorted(path.name for path in checkpoints.folder(tmp_path).iterdir())
    assert names == ["best.pt", "checkpoint_0000004.pt", "checkpoint_0000005.pt"]
    assert checkpoints.load(checkpoints.find(tmp_path, "best")).iteration == 2
    assert checkpoints.load(checkpoints.find(tmp_path, "latest")).iteration == 5


def test_later_checkpoints_and_half_written_files_are_discarded(tmp_path: Path, make_checkpoint):
    for iteration in (1, 2, 3):
        checkpoints.save(make_checkpoint(iteration), tmp_path, keep=9, best=False)
    for ending in ("tmp", "link"):
        (checkpoints.folder(tmp_path) / f"checkpoint_0000004.{ending}").write_bytes(b"half")
    checkpoints.discard_after(tmp_path, 2)
    names = sorted(path.name for path in checkpoints.folder(tmp_path).iterdir())
    assert names == ["checkpoint_0000001.pt", "checkpoint_0000002.pt"]


def test_the_number_of_a_checkpoint_may_be_longer_than_it_is_written(tmp_path: Path, make_checkpoint):
    for iteration in (9_999_999, 10_000_000):
        checkpoints.save(make_checkpoint(iteration), tmp_path, keep=9, best=False)
    (checkpoints.folder(tmp_path) / "checkpoint_of_mine.pt").touch()
    assert [checkpoints.iteration_of(path) for path in checkpoints.numbered(tmp_path)] == [9_999_999, 10_000_000]
    assert checkpoints.load(checkpoints.find(tmp_path, "latest")).iteration == 10_000_000


@pytest.mark.parametrize("best", [2, 3])
def test_a_later_best_checkpoint_is_discarded(best: int, tmp_path: Path, make_checkpoint):
    for iteration in (1, 2, 3):
        checkpoints.save(make_checkpoint(iteration), tmp_path, keep=9, best=iteration == best)
    checkpoints.discard_after(tmp_path, 2)
    assert (checkpoints.folder(tmp_path) / "best.pt").is_file() == (best == 2)


def test_the_best_checkpoint_that_a_run_goes_on_from_is_its_latest(tmp_path: Path, make_checkpoint):
    for iteration in (1, 2, 3):
        checkpoints.save(make_checkpoint(iteration), tmp_path, keep=2, best=iteration == 1)
    checkpoints.discard_after(tmp_path, 1)
    names = sorted(path.name for path in checkpoints.folder(tmp_path).iterdir())
    assert names == ["best.pt", "checkpoint_0000001.pt"]
    assert checkpoints.load(checkpoints.find(tmp_path, "latest")).iteration == 1


def damaged(data: bytes, way: str) -> bytes:
    middle = len(data) // 2
    return {
        "truncated": data[:middle],
        "without its end": data[:-1],
        "empty": b"",
        "one byte changed": data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :],
        "head changed": data[:100] + bytes([data[100] ^ 0xFF]) + data[101:],
        "text": b"not a checkpoint\n" * 50,
    }[way]


@pytest.mark.parametrize("way", ["truncated", "without its end", "empty", "one byte changed", "head changed", "text"])
def test_damaged_file_is_refused(way: str, tmp_path: Path, make_checkpoint):
    path = checkpoints.save(make_checkpoint(), tmp_path, keep=1, best=False)
    path.write_bytes(damaged(path.read_bytes(), way))
    with pytest.raises(ConfigError, match=str(path)) as error:
        checkpoints.load(path)
    assert "\n" not in str(error.value)


def test_every_byte_counts(tmp_path: Path, make_checkpoint):
    """A changed byte is noticed, or it is one of the archive's own that nothing depends on."""
    saved = make_checkpoint()
    path = checkpoints.save(saved, tmp_path, keep=1, best=False)
    data = path.read_bytes()
    for position in range(0, len(data), len(data) // 97):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x01]) + data[position + 1 :])
        try:
            loaded = checkpoints.load(path)
        except ConfigError:
            continue
        assert same(saved.learner, loaded.learner) and same(saved.rng, loaded.rng)


def test_missing_and_foreign_files_are_refused(tmp_path: Path, make_checkpoint):
    with pytest.raises(ConfigError, match="does not exist"):
        checkpoints.load(tmp_path / "none.pt")
    with pytest.raises(ConfigError, match="has no latest checkpoint"):
        checkpoints.find(tmp_path, "latest")
    foreign = tmp_path / "model_10.pt"
    for content in ({"actor_state_dict": {}, "iter": 10, "infos": None}, [1, 2], torch.zeros(2)):
        torch.save(content, foreign)
        with pytest.raises(ConfigError, match="is not a checkpoint of difftori_isaac"):
            checkpoints.load(foreign)
    torch.save({"code": Path}, foreign)
    with pytest.raises(ConfigError, match="cannot be read"):
        checkpoints.load(foreign)
    torch.save({"format": checkpoints.FORMAT, "iteration": 1}, foreign)
    with pytest.raises(ConfigError, match="of another version"):
        checkpoints.load(foreign)


def test_full_disk_leaves_earlier_checkpoints(tmp_path: Path, make_checkpoint, full_disk):
    first = checkpoints.save(make_checkpoint(1), tmp_path, keep=1, best=True)
    before = first.read_bytes()
    with full_disk(), pytest.raises(RunError, match="earlier checkpoints are untouched"):
        checkpoints.save(make_checkpoint(2), tmp_path, keep=1, best=True)
    assert sorted(path.name for path in checkpoints.folder(tmp_path).iterdir()) == ["best.pt", first.name]
    assert first.read_bytes() == before
    assert checkpoints.load(checkpoints.find(tmp_path, "best")).iteration == 1
