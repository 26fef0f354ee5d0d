"""Encoders of images and point clouds."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rsl_rl.utils import resolve_nn_activation
from tensordict import TensorDict

from difftori_isaac.world_models.encoder_config import ACTIVATIONS, EncoderConfig
from difftori_isaac.world_models.encoders import GroupEncoders, ImageEncoder, PointNet, random_shift

CONFIG = EncoderConfig(image_channels=(4, 5), image_kernels=(5, 3), image_strides=(2, 2), point_dims=(8, 6))


def make_obs(*batch: int) -> TensorDict:
    generator = torch.Generator().manual_seed(0)
    groups = {
        "policy": torch.randn(*batch, 7, generator=generator),
        "pixels": torch.randint(256, (*batch, 3, 12, 20), generator=generator, dtype=torch.uint8),
        "point_cloud": torch.randn(*batch, 9, 3, generator=generator),
    }
    return TensorDict(groups, batch_size=list(batch))


@settings(max_examples=20, deadline=None)
@given(num_points=st.integers(1, 12), seed=st.integers(0, 99), normalized=st.booleans())
def test_the_order_and_repetition_of_points_does_not_matter(num_points, seed, normalized):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(0)
    net = PointNet(3, replace(CONFIG, point_layer_norm=normalized, point_out_dim=5 if normalized else None))
    assert net.out_dim == (5 if normalized else 6)
    points = torch.randn(2, num_points, 3, generator=generator)
    shuffled = points[:, torch.randperm(num_points, generator=generator)]
    torch.testing.assert_close(net(shuffled), net(points))
    torch.testing.assert_close(net(torch.cat((points, points[:, :1]), dim=1)), net(points))
    assert not torch.allclose(net(points + 1.0), net(points))


def test_a_group_is_encoded_by_its_shape_alone_or_in_sequences():
    torch.manual_seed(0)
    encoders = GroupEncoders(make_obs(2), ["policy", "pixels", "point_cloud"], CONFIG)
    assert encoders.flat == ["policy"]
    assert isinstance(encoders["pixels"], ImageEncoder) and isinstance(encoders["point_cloud"], PointNet)
    images, points = encoders(obs := make_obs(2, 3))
    assert (*images.shape[:2], *points.shape) == (2, 3, 2, 3, 6)
    assert images.shape[2] + points.shape[2] == encoders.out_dim
    torch.testing.assert_close(
        torch.cat(encoders(obs[1, 2].unsqueeze(0)), -1)[0], torch.cat((images, points), -1)[1, 2]
    )


def test_points_of_any_size_have_normalised_features():
    torch.manual_seed(0)
    net = PointNet(3, replace(CONFIG, point_layer_norm=True, point_out_dim=50))
    for size in (1.0, 1e3):
        features = net(size * torch.randn(7, 5, 3))
        torch.testing.assert_close(features.std(dim=-1, unbiased=False), torch.ones(7), rtol=0, atol=1e-3)
    for encoder, norms in ((net, len(CONFIG.point_dims) + 1), (PointNet(3, CONFIG), 0)):
        assert sum(isinstance(layer, torch.nn.LayerNorm) for layer in encoder.modules()) == norms


def test_uint8_images_are_scaled_and_others_are_not():
    encoder = ImageEncoder(torch.Size((3, 12, 20)), CONFIG)
    images = make_obs(2)["pixels"]
    torch.testing.assert_close(encoder(images), encoder(images / 255.0 - 0.5))
    assert not torch.allclose(encoder(images), encoder(images.float()))


def test_images_are_shifted_by_whole_pixels():
    """The border is repeated, so that a ramp keeps its slope away from it."""
    ramp = torch.arange(84.0).expand(1, 1, 1, 84, 84)
    move = random_shift(ramp, 4)[0, 0, 0, 40, 10:70] - ramp[0, 0, 0, 40, 10:70]
    assert move.unique().numel() == 1 and move.abs().max() <= 4
    assert torch.equal(random_shift(ramp, 0), ramp)


def test_the_gradient_reaches_every_weight():
    torch.manual_seed(0)
    encoders = GroupEncoders(make_obs(2), ["pixels", "point_cloud"], CONFIG)
    torch.cat(encoders(make_obs(64)), dim=-1).square().sum().backward()
    for name, parameter in encoders.named_parameters():
        assert parameter.grad.any(), name


def test_the_task_s_cnn_fills_what_is_not_set():
    cnn = {"output_channels": [8, 16], "kernel_size": [5, 3], "stride": 2, "activation": "elu"}
    filled = EncoderConfig(image_strides=(4, 1)).filled_from(cnn)
    assert filled == EncoderConfig(
        image_channels=(8, 16), image_kernels=(5, 3), image_strides=(4, 1), image_activation="elu"
    )
    assert EncoderConfig().filled_from({}).image_channels == (16, 32, 32)


def test_activations_are_those_of_rsl_rl():
    with pytest.raises(ValueError, match=re.escape(str(list(ACTIVATIONS)))):
        resolve_nn_activation("foo")
    EncoderConfig(image_activation="ReLU", point_activation="ELU")


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"encoders.image_channels has 2, encoders.image_kernels has 1 entries"):
        EncoderConfig(image_channels=(4, 4), image_kernels=(3,))
    for name in ("image_activation", "point_activation"):
        with pytest.raises(ValueError, match=rf"encoders.{name} is 'foo'; allowed: elu, selu, .*, identity$"):
            EncoderConfig(**{name: "foo"})
    with pytest.raises(ValueError, match=r"encoders.point_dims is \(\); allowed"):
        EncoderConfig(point_dims=())
    with pytest.raises(ValueError, match=r"encoders.point_out_dim is 0; allowed: an integer of at least 1, or null"):
        EncoderConfig(point_out_dim=0)
    with pytest.raises(ValueError, match=r"images of 6 × 20 pixels are too small"):
        ImageEncoder(torch.Size((3, 6, 20)), CONFIG)
    with pytest.raises(ValueError, match=r"group x has shape \(2, 2, 2, 2\)"):
        GroupEncoders(TensorDict({"x": torch.zeros(1, 2, 2, 2, 2)}, batch_size=[1]), ["x"], CONFIG)
    terms = TensorDict({"x": {"position": torch.zeros(1, 2), "velocity": torch.zeros(1, 2)}}, batch_size=[1])
    with pytest.raises(
        ValueError, match=r"group x is a dictionary of terms \(position, velocity\); .*concatenate_terms"
    ):
        GroupEncoders(terms, ["x"], CONFIG)
