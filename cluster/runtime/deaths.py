"""Deaths of processes: functions that recognise them by Ray's errors, and that describe each in one line."""

import os
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

from gristmill.cluster.contract.settings import Settings

LONGEST = 300
"""Most characters of Ray's text in one of our lines. The log has the complete text."""
NUM_TOP = 3
"""Number of processes that a line names, the largest ones."""
_USED = re.compile(r"([\d.]+) ?GB used / ([\d.]+) ?GB")
_PROCESS = re.compile(r"^ *\d+\s+([\d.]+)\s+(\S.*)$", re.MULTILINE)


class Memory(NamedTuple):
    """The memory of a machine in GiB, and its largest processes as (command, GiB), the largest first."""

    used: float
    limit: float
    top: tuple[tuple[str, float], ...] = ()


def deaths() -> tuple[type[Exception], ...]:
    """Return the classes of Ray's errors that mean that a process has died, and that a new process may do its work.

    An `except` for `RayTaskError` must come before one for these. An error that a living process raised has the class
    of its cause, and the cause is one of these if that process waited for an actor that died.

    Three kinds are left out. After `LocalRayletDiedError` and `RaySystemError` this driver can start nothing.
    `ObjectLostError` and its subclasses are errors of the program, because results are small and arrive with the reply.
    Errors for actors that were never placed or were cancelled are no deaths.
    """
    from ray import exceptions

    return (
        exceptions.RayActorError,  # ActorDiedError, and ActorUnavailableError: the way to the actor is cut
        exceptions.OutOfMemoryError,  # an actor or task that Ray's memory monitor ended; a plain RayError
        exceptions.WorkerCrashedError,  # the process of a task
        exceptions.NodeDiedError,  # the machine of a task
    )


def out_of_memory(error: Exception) -> bool:
    """Return whether Ray ended the process because the memory of its machine was full.

    Any process of the machine may have filled the memory.
    """
    from ray import exceptions

    return isinstance(error, exceptions.OutOfMemoryError)


def ended(process: str, error: Exception, *, top: bool = True) -> str:
    """Return in one line why a process died.

    If the memory was full and `top` is true, the line names the machine's largest processes.
    """
    if not out_of_memory(error):
        return f"{process} died: {textwrap.shorten(str(error), LONGEST)}"
    said = parse(str(error))
    now = None if said else measure()  # a later Ray may word it differently; the memory may be free again by now
    figures = f" ({_figures(said, top=top)})" if said else f" (now {_figures(now, top=top)})" if now else ""
    return f"Ray ended {process} because the machine's memory was full{figures}"


def lowerable(section: str, values: Settings, *names: str) -> str:
    """Return those of the named settings that can be lowered, with their values, such as `a.b (2), a.c (256)`."""
    found = ((name, getattr(values, name, None)) for name in names)
    return ", ".join(f"{section}.{name} ({value})" for name, value in found if isinstance(value, int) and value > 1)


def advice(lower: str) -> str:
    """Return the advice for a machine whose memory is full. `lower` is the result of `lowerable`, or empty."""
    return f"lower {lower}, or end other programs" if lower else "end other programs, or use a machine with more memory"


def parse(text: str) -> Memory | None:
    """Return the memory figures in Ray's text, or None if it has none. Ray writes GB and means GiB."""
    found = _USED.search(text)
    if not found:
        return None
    processes = [(_command(command), float(size)) for size, command in _PROCESS.findall(text)]
    top = sorted(processes, key=lambda process: -process[1])[:NUM_TOP]
    return Memory(float(found[1]), float(found[2]), tuple(top))


def measure() -> Memory | None:
    """Return the memory of this machine now. It is None if the Ray cluster has other machines or `/proc` is missing."""
    import ray

    if not Path("/proc/meminfo").exists() or (ray.is_initialized() and len(ray.nodes()) > 1):
        return None
    lines = (line.split() for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    sizes = {words[0].rstrip(":"): int(words[1]) / 2**20 for words in lines}
    processes = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            pages = int((folder / "statm").read_text(encoding="ascii").split()[1])
            command = (folder / "cmdline").read_text(encoding="utf-8", errors="replace").replace("\0", " ").strip()
        except OSError:  # the process has ended since
            continue
        processes.append((_command(command or folder.name), pages * os.sysconf("SC_PAGE_SIZE") / 2**30))
    top = sorted(processes, key=lambda process: -process[1])[:NUM_TOP]
    return Memory(sizes["MemTotal"] - sizes["MemAvailable"], sizes["MemTotal"], tuple(top))


def _figures(memory: Memory, *, top: bool) -> str:
    most = ", ".join(f"{command} {size:.1f}" for command, size in memory.top) if top else ""
    return f"{memory.used:.1f} of {memory.limit:.1f} GiB" + (f"; most in {most} GiB" if most else "")


def _command(line: str) -> str:
    """Return a command line in at most 40 characters, without the folders of its program."""
    program, _, rest = line.partition(" ")
    return f"{program if program.startswith('ray::') else Path(program).name} {' '.join(rest.split())}"[:40].strip()
