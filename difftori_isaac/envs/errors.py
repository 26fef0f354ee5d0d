"""What a simulator can do wrong."""


class SimulatorError(RuntimeError):
    """A simulator failed or died: names the environment and says what happened, in one line."""
