"""What the cart-pole's camera sees."""

from contextlib import closing

import pytest
import torch

from difftori_isaac.envs.isaaclab import make_env

pytestmark = pytest.mark.sim
NUM_ENVS = 6


def test_pictures_are_of_the_state_and_follow_each_other():
    with closing(make_env("CartpolePixels", num_envs=NUM_ENVS, device="cpu", seed=0)) as env:
        first = env.get_observations()["pixels"].clone()
        assert (first.shape, first.dtype) == ((NUM_ENVS, 3, 48, 96), torch.uint8)
        assert (first == first[:, :1]).all() and not torch.equal(first[0], first[1])
        pictures = [first[:, -1]]
        ending = torch.arange(NUM_ENVS) == 2
        for step in range(6):
            if step == 3:
                env.episode_length_buf[ending] = 1000
            obs, _, dones, extras = env.step(torch.ones(NUM_ENVS, 1))
            seen = obs["pixels"].clone()
            pictures.append(seen[:, -1])
            if step >= 1:
                assert torch.equal(seen[~ending], torch.stack(pictures[-3:], dim=1)[~ending])
            if step == 3:
                assert torch.equal(dones.bool(), ending)
                assert (seen[ending] == seen[ending][:, :1]).all()
                last = extras["final_obs"]["pixels"][ending]
                assert torch.equal(last[:, :-1], torch.stack(pictures[-3:-1], dim=1)[ending])
                assert not torch.equal(last[:, -1], seen[ending][:, -1])
                reset = obs["critic"][ending].clone()

        def cart_column(picture: torch.Tensor) -> torch.Tensor:
            return picture.argmin(dim=-1).float()[torch.arange(len(picture)), picture.amin(dim=-1).argmin(dim=-1)]

        # the rail runs along the picture: 7 m away, a pixel is 64 mm
        columns, carts = cart_column(seen[:, -1]), obs["critic"][:, 0]
        scale = torch.linalg.lstsq(torch.stack((carts, torch.ones(NUM_ENVS)), dim=1), columns[:, None])
        assert abs(abs(scale.solution[0, 0].item()) * 0.0637 - 1.0) < 0.3, (columns, carts)
        assert reset.abs().max() < 2.0
