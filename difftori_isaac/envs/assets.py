"""Checks that the remote assets of a configuration can be loaded, before a simulator tries to.

Isaac Lab waits about fifty seconds for an asset server that does not answer.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

_PATH_FIELDS = ("usd_path", "asset_path")
_DEFAULT_PORTS = {"http": 80, "omniverse": 3009}


def find_remote_assets(cfg: object) -> list[tuple[str, str]]:
    """Lists the files a scene would load from a server.

    Visualization markers are left out: they are loaded only where there is a display.

    Args:
        cfg: An environment configuration, a tree of dataclasses, mappings and sequences.

    Returns:
        Pairs of the configuration key and the address.
    """
    return list(_walk(cfg, "env"))


def _walk(node: object, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        children = [(str(name), child) for name, child in node.items()]
    elif isinstance(node, list | tuple):
        children = [(str(index), child) for index, child in enumerate(node)]
    elif hasattr(node, "__dataclass_fields__"):
        children = list(vars(node).items())
    else:
        return
    for name, child in children:
        if name.endswith("visualizer_cfg"):
            continue
        if name in _PATH_FIELDS:
            for path in [child] if isinstance(child, str) else child or ():
                if len(urlsplit(path).scheme) > 1:
                    yield f"{key}.{name}", path
        else:
            yield from _walk(child, f"{key}.{name}")


def require_reachable(assets: list[tuple[str, str]], *, timeout: float = 1.5) -> None:
    """Asks each server once whether it is there.

    Args:
        assets: Pairs of configuration key and address.
        timeout: How long to wait for a server [s].

    Raises:
        ValueError: A server does not answer.
    """
    answered = set()
    for key, path in assets:
        url = urlsplit(path)
        server = (url.hostname or "", url.port or _DEFAULT_PORTS.get(url.scheme, 443))
        if server in answered:
            continue
        try:
            socket.create_connection(server, timeout).close()
        except OSError as error:
            raise ValueError(
                f"The asset server {server[0]} does not answer ({error}), but {key} needs {path}. Set the environment "
                "variable ISAACSIM_ASSET_ROOT to a local copy of the Isaac Sim assets or to a server in reach, or "
                f"override {key} with a local file."
            ) from None
        answered.add(server)
