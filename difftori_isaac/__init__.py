"""Robot learning where the policy is a differentiable trajectory optimizer."""
