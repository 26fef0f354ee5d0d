"""Everything that starts and survives: configuration, the training loop, checkpoints, metrics, evaluation."""
