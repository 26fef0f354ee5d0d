"""Hydra configuration files: config.yaml and one folder per group of variants."""
