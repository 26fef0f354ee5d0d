"""Checks that a scene's remote assets can be loaded, before a simulator waits most of a minute for them."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

_PATH_FIELDS = ("usd_path", "asset_path")
_NUCLEUS_PORT = 3009


def find_remote_assets(cfg: object, *, ground_plane: str) -> list[tuple[str, str]]:
    """Lists the files that building a scene would load from a server.

    Visualization markers are left out: they are loaded only where there is a display.

    Args:
        cfg: An environment configuration, a tree of dataclasses, mappings and sequences.
        ground_plane: The file behind ``terrain_type="plane"``.

    Returns:
        Pairs of the configuration key and the address.
    """
    return [
        (key, path) for key, path in _asset_paths(cfg, "env", ground_plane) if len(urlsplit(path).scheme) > 1
    ]  # a scheme of one letter is a Windows drive


def _asset_paths(node: object, key: str, ground_plane: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        children = [(str(name), child) for name, child in node.items()]
    elif isinstance(node, list | tuple):
        children = [(str(index), child) for index, child in enumerate(node)]
    elif hasattr(node, "__dataclass_fields__"):
        children = list(vars(node).items())
    else:
        return
    for name, child in children:
        child_key = f"{key}.{name}"
        if name in _PATH_FIELDS:
            for path in [child] if isinstance(child, str) else child or ():
                yield child_key, str(path)
        elif name == "terrain_type" and child == "plane":
            yield child_key, ground_plane
        elif not name.endswith("visualizer_cfg"):
            yield from _asset_paths(child, child_key, ground_plane)


def require_reachable(assets: list[tuple[str, str]], *, timeout: float = 1.5) -> None:
    """Asks each asset server once whether it answers; copies that Isaac Lab has downloaded before need none.

    Args:
        assets: Pairs of configuration key and address.
        timeout: How long to wait for a server [s].

    Raises:
        ValueError: A server does not answer.
    """
    answering = set()
    for key, path in assets:
        server = urlsplit(path).netloc
        if server in answering or _downloaded_copy(path).is_file():
            continue
        try:
            _knock(path, timeout)
        except OSError as error:
            raise ValueError(
                f"The asset server {server} does not answer ({error}), but {key} needs {path}. Point the environment "
                "variable ISAACSIM_ASSET_ROOT to a local copy of the Isaac Sim assets or to another server."
            ) from None
        answering.add(server)


def _downloaded_copy(path: str) -> Path:
    """Where Isaac Lab keeps its copy of a remote file."""
    url = urlsplit(path)
    return Path(tempfile.gettempdir(), url.scheme, url.netloc.replace(":", "_"), url.path.lstrip("/"))


def _knock(path: str, timeout: float) -> None:
    """Raises OSError unless the server behind `path` answers, be it that it has no such file."""
    url = urlsplit(path)
    if url.scheme in ("http", "https"):
        try:
            urlopen(Request(path, method="HEAD"), timeout=timeout).close()
        except HTTPError as error:
            if error.code >= 500:  # a proxy that cannot reach the server
                raise
    else:
        socket.create_connection((url.hostname or "", url.port or _NUCLEUS_PORT), timeout).close()
