"""Optimise action sequences and differentiate the optimum. Knows no robot, no environment and no learner."""
