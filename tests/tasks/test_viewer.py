"""What a browser is sent while environments are stepped; the browser's half of viser's protocol is here."""

import _thread
import signal
import socket
import threading
import time
from contextlib import closing

import pytest
import torch

from difftori_isaac.envs.isaaclab import load_plan_path, make_env
from difftori_isaac.run.play import free_port
from difftori_isaac.scripts.play import main as play

CAMERA = {
    "type": "ViewerCameraMessage",
    "wxyz": (1.0, 0.0, 0.0, 0.0),
    "position": (1.0, 1.0, 1.0),
    "fov": 1.0,
    "near": 0.1,
    "far": 100.0,
    "image_height": 480,
    "image_width": 640,
    "look_at": (0.0, 0.0, 0.0),
    "up_direction": (0.0, 0.0, 1.0),
}


class Browser(threading.Thread):
    """Connects as soon as somebody listens, tells where it looks from, and keeps what it is sent.

    After so many frames, or when it cannot go on, it presses Ctrl-C.
    """

    def __init__(self, port: int, ctrl_c_after: int | None = None):
        super().__init__(daemon=True)
        self.port, self.ctrl_c_after = port, ctrl_c_after
        self.frames: list[bytes] = []
        self.connected, self.left = threading.Event(), threading.Event()
        self.start()

    def run(self):
        try:
            self.watch()
        finally:
            if self.ctrl_c_after is not None and not self.left.is_set():
                _thread.interrupt_main()

    def watch(self):
        import msgspec
        import viser
        from websockets.sync.client import connect

        address, protocol = f"ws://localhost:{self.port}", f"viser-v{viser.__version__}"
        until = time.monotonic() + 120
        while True:
            try:
                page = connect(address, subprotocols=[protocol], max_size=None)
                break
            except OSError:
                if self.left.is_set() or time.monotonic() > until:
                    return
                time.sleep(0.1)
        with page:
            page.send(msgspec.msgpack.encode(CAMERA))
            for frame in page:
                self.frames.append(frame)
                self.connected.set()
                if len(self.frames) == self.ctrl_c_after:
                    return

    def names(self) -> set[str]:
        """Names of all that it was told to draw."""
        import msgspec
        import zstandard

        messages = []
        for frame in self.frames:
            size = int.from_bytes(frame[8:16], "little")
            payload = zstandard.ZstdDecompressor().decompress(frame[16 : 16 + size])
            messages += msgspec.msgpack.decode(payload)["messages"]
        return {str(message.get("name")) for message in messages}


def unused_port() -> int:
    with closing(socket.socket()) as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


@pytest.mark.sim
def test_a_browser_sees_environments_and_where_a_plan_leads():
    plan_path = load_plan_path("Reach")
    assert plan_path is not None
    browser = Browser(port := unused_port())
    with closing(make_env("Reach", num_envs=2, device="cpu", seed=0, viewer_port=port)) as env:
        assert browser.connected.wait(120)
        actions = torch.zeros(2, env.num_actions)
        path, goal = plan_path(env.unwrapped, actions)
        assert goal is not None
        env.mark_path(path, goal)
        for _ in range(3):
            env.step(actions)
    browser.join(30)
    assert not browser.is_alive()
    drawn = browser.names()
    assert any("shape" in name for name in drawn)
    assert {name.rpartition("/")[2] for name in drawn if "plan" in name} >= {"step_0", "step_2", "step_4", "goal"}
    for point in (*path, goal):
        assert any(point.numpy().tobytes() in frame for frame in browser.frames)


@pytest.mark.sim
def test_play_is_watched_until_ctrl_c(capsys: pytest.CaptureFixture):
    browser = Browser(port := unused_port(), ctrl_c_after=50)
    arguments = ["task=Cartpole", "policy=zero", "num_envs=2", "device=cpu"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs tests behind itself
    try:
        assert play([*arguments, "viewer=viser", f"viewer_port={port}"]) == 0
    finally:
        browser.left.set()
        signal.signal(signal.SIGINT, before)
    printed = capsys.readouterr().out
    assert f"watch at http://localhost:{port}, until Ctrl-C" in printed and "mean return" in printed
    assert len(browser.frames) == 50


def test_a_taken_port_is_left_to_its_program():
    with closing(socket.socket()) as server:
        server.bind(("localhost", 0))
        server.listen()
        taken = server.getsockname()[1]
        assert free_port(taken) > taken
    assert free_port(taken) >= taken


def test_what_cannot_be_watched_is_bad_input(capsys: pytest.CaptureFixture):
    for task, argument, message in (
        ("walker-walk", "viewer_port=8080", "walker-walk has no viewer: only tasks of Isaac Lab have"),
        ("hammer-v3", "viewer_port=8080", "hammer-v3 has no viewer: only tasks of Isaac Lab have"),
        ("Cartpole", "video=true", "viewer is viser with video=true; allowed: one of them"),
        ("Cartpole", "viewer_port=0", "viewer_port is 0; allowed: an integer from 1 to 65535"),
        ("Cartpole", "viewer=rviz", "viewer is 'rviz'"),
    ):
        assert play([f"task={task}", "policy=zero", "device=cpu", "viewer=viser", argument]) == 2
        assert message in capsys.readouterr().err
