"""Planners measured side by side: time, memory and cost on the same problem."""
