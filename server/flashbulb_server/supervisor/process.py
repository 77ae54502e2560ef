"""Child processes that cannot outlive their parent.

A child is started through a tiny launcher that asks the kernel for a signal at the parent's death and then becomes the real command.
(A `preexec_fn` would do the same, but runs Python between fork and exec, which is not safe once there are threads.)
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

# argv: signal, pid of the parent, command... PR_SET_PDEATHSIG is 1. A parent that died before the call sends nothing, hence the second look.
_LAUNCHER = """
import os, sys
if sys.platform == "linux":
    import ctypes
    if ctypes.CDLL(None, use_errno=True).prctl(1, int(sys.argv[1]), 0, 0, 0):
        sys.exit("prctl: " + os.strerror(ctypes.get_errno()))
if os.getppid() != int(sys.argv[2]):
    sys.exit("the parent is gone")
try:
    os.execvp(sys.argv[3], sys.argv[3:])
except OSError as err:
    sys.exit(f"{sys.argv[3]}: {err.strerror}")
"""


def bound_to_this_process(command: Sequence[str], death_signal: signal.Signals) -> tuple[str, ...]:
    """Command line that becomes `command`, and gets `death_signal` when this process dies, however it dies.

    To be started on a thread that lives as long as the child should: the kernel watches the thread, not the process. Where there is no
    such watch (macOS), the child must look after its parent itself.
    """
    return (sys.executable, "-I", "-S", "-c", _LAUNCHER, str(int(death_signal)), str(os.getpid()), *command)


def hear_of_children_without_threads() -> None:
    """Makes the ends of child processes known by descriptors where the system has such. To be called before the first is started.

    Otherwise Python 3.11 starts a thread for each child, and where threads have run out (a limit on processes counts them) it would lose a
    child that it has just started. Later releases do this by themselves.
    """
    if sys.version_info >= (3, 12) or not hasattr(os, "pidfd_open"):
        return
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:  # the kernel has none
        return
    watcher = asyncio.PidfdChildWatcher()
    watcher.attach_loop(asyncio.get_running_loop())
    asyncio.set_child_watcher(watcher)


def exit_with_parent() -> None:
    """Makes this process end within a second of its parent's death, at once and without cleaning up. For systems without a death signal."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()
