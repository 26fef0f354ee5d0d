#!/bin/sh
# Installs the project of this folder, without Isaac Sim, into .venv beside it. Run by Dockerfile and by the Apptainer
# recipe, on Debian with Python 3.12, as root.
set -eu
cd "$(dirname "$0")/.."

if [ "${SYSTEM_PACKAGES:-yes}" = yes ]; then
  apt-get update
  # g++ for torch.compile; EGL for pictures of dm_control, and Mesa to draw them where there is no GPU
  apt-get install --yes --no-install-recommends g++ libegl1 libgl1 libopengl0 libegl-mesa0 libgl1-mesa-dri
  rm -rf /var/lib/apt/lists/*
  pip install --no-cache-dir uv==0.13.9
fi

uv sync --no-cache --no-default-groups --no-editable --extra dmc --extra export --extra sweep --extra viewer
