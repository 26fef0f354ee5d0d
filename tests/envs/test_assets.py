import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from difftori_isaac.envs.assets import find_remote_assets, require_reachable
from difftori_isaac.envs.isaaclab import compose_env_cfg, make_env


@pytest.fixture
def web_server():
    """An HTTP server without a single file."""

    class Handler(BaseHTTPRequestHandler):
        requests = 0

        def do_HEAD(self):
            Handler.requests += 1
            self.send_error(404)

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", Handler
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("task", ["Cartpole-Direct", "Lift-Franka", "Lift-Franka-IK-Abs", "Reach-Franka"])
def test_our_tasks_need_no_server(task):
    assert find_remote_assets(compose_env_cfg(f"DiffTori-{task}"), ground_plane="https://host/plane.usd") == []


def test_finds_robot_and_ground_plane():
    cfg = compose_env_cfg("Isaac-Ant-Direct")
    cfg.scene.robot.spawn.usd_path = "omniverse://host/ant.usd"
    assert find_remote_assets(cfg, ground_plane="https://host/plane.usd") == [
        ("env.scene.terrain.terrain_type", "https://host/plane.usd"),
        ("env.scene.robot.spawn.usd_path", "omniverse://host/ant.usd"),
    ]


def test_a_server_is_asked_once(web_server):
    address, handler = web_server
    require_reachable([("env.a", f"{address}/a.usd"), ("env.b", f"{address}/b.usd")])
    assert handler.requests == 1


@pytest.mark.parametrize("scheme", ["http", "omniverse"])
def test_a_silent_server_is_an_error_at_once(scheme):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # takes the port, never listens
        address = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/robot.usd"
        with pytest.raises(ValueError, match="ISAACSIM_ASSET_ROOT") as error:
            require_reachable([("env.scene.robot.spawn.usd_path", address)])
    assert address in str(error.value)
    assert "\n" not in str(error.value)


def test_a_downloaded_copy_needs_no_server(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    copy = tmp_path / "http" / "127.0.0.1_9" / "folder" / "robot.usd"
    copy.parent.mkdir(parents=True)
    copy.touch()
    require_reachable([("env.robot", "http://127.0.0.1:9/folder/robot.usd")])


def test_make_env_fails_before_the_simulator_starts():
    start = time.monotonic()
    overrides = ["env.scene.cartpole.spawn.usd_path=http://127.0.0.1:9/cartpole.usd"]
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:9 does not answer"):
        make_env("Cartpole", num_envs=1, device="cpu", seed=0, overrides=overrides)
    assert time.monotonic() - start < 10.0
