"""The one way a script starts: reads arguments, explains itself, runs, and says in one line what went wrong."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from pkgutil import resolve_name
from types import FrameType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from difftori_isaac.envs.errors import SimulatorError
from difftori_isaac.run.errors import ConfigError, RunError

if TYPE_CHECKING:
    from difftori_isaac.run.compose import Overrides

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130
HELP, MULTIRUN = {"-h", "--help"}, {"-m", "--multirun"}


class Terminated(BaseException):
    """SIGTERM, where nothing is running yet that would save its state."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A script: called with its arguments, it returns its exit code.

    0 is success, also after a signal that let the run save its state; 1 a run that could not go on; 2 bad input; 130 an
    interruption with nothing to save. With the environment variable HYDRA_FULL_ERROR=1 errors keep their traceback.
    """

    name: str
    """File name of the script."""
    summary: str
    """What it does, in one or two sentences."""
    schema: str
    """``module:class`` of its configuration; torch, which it needs, takes seconds to import."""
    run: str
    """``module:function`` that takes the :class:`~difftori_isaac.run.compose.Overrides`."""
    examples: tuple[str, ...] = ()
    """Arguments of example calls."""
    task_defaults: str | None = None
    """``module:function`` that takes the name of a task and returns what it sets for itself, which --help shows too."""
    multirun: tuple[str, str] | None = None
    """``schema`` and ``run`` of a call with -m, where the function takes the arguments as they are."""

    def __call__(self, arguments: Sequence[str] | None = None) -> int:
        """Runs the script."""
        arguments = sys.argv[1:] if arguments is None else arguments
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a terminal that is not of UTF-8 lacks some characters
        ends = (signal.SIGTERM, signal.SIGHUP)  # of which nohup ignores the second
        taken = [number for number in ends if signal.getsignal(number) is not signal.SIG_IGN]
        previous = {number: signal.signal(number, _terminate) for number in taken}
        try:
            self._start(arguments)
            sys.stdout.flush()
            return 0
        except (ConfigError, RunError, SimulatorError) as error:
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return BAD_INPUT if isinstance(error, ConfigError) else FAILED
        except (KeyboardInterrupt, Terminated) as error:
            word = "interrupted" if isinstance(error, KeyboardInterrupt) else "terminated"
            print(f"{word}: nothing more was saved", file=sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:
            if not _stdout_is_closed():
                raise
            print("error: who read the output has closed it; nothing more was done", file=sys.stderr)
            return FAILED
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _start(self, arguments: Sequence[str]) -> None:
        from difftori_isaac.run.compose import parse

        asks_help = bool(HELP & set(arguments))
        if self.multirun is not None and MULTIRUN & set(arguments):
            schema, run = map(resolve_name, self.multirun)
            if asks_help:
                self._help(schema, parse([], schema))
            else:
                run([item for item in arguments if item not in MULTIRUN])
            return
        schema = resolve_name(self.schema)
        overrides = parse((item for item in arguments if item not in HELP), schema)
        if asks_help:
            self._help(schema, overrides)
        else:
            resolve_name(self.run)(overrides)

    def _help(self, schema: type, overrides: Overrides) -> None:
        from difftori_isaac.run.compose import compose_values, variant_groups
        from difftori_isaac.run.config import leaf_keys, variants_of

        task = overrides.get("task")
        own = {} if self.task_defaults is None or task is None else resolve_name(self.task_defaults)(task)
        values = compose_values(schema, overrides, task=own)
        console = Console(highlight=False, width=max(100, Console().width))
        sweeps = " [-m key=value,value ...]" if self.multirun else ""
        console.print(f"usage: scripts/{self.name} key=value ...{sweeps}\n\n{self.summary}\n", markup=False)
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
        table.add_column(no_wrap=True, style="cyan")
        table.add_column()
        for group, form, options in variant_groups(schema, values):
            chosen = overrides.groups.get(group, form)
            table.add_row(f"{group}={chosen}", rf"Settings to start from. \[{'|'.join(options)}]")
        for key, description in leaf_keys(schema, *variants_of(values)).items():
            value: Any = values
            for name in key.split("."):
                value = value[name]
            table.add_row(f"{key}={show(value)}", description.replace("``", "").replace("[", r"\["))
        console.print(table)
        if self.examples:
            lines = [f"  scripts/{self.name} {item}".rstrip() for item in self.examples]
            console.print("\nexamples:", *lines, sep="\n", markup=False, soft_wrap=True)


def _stdout_is_closed() -> bool:
    """Whether nobody reads the output any more; what is left of it goes nowhere then."""
    poll = select.poll()
    poll.register(sys.stdout, 0)  # tells of errors alone
    if not poll.poll(0):
        return False
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return True


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def show(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(show(item) for item in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
