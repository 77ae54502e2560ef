"""How tests are spread over the workers of pytest-xdist (`pytest -n`).

1. A file is one worker's, so that what its tests share is made once. Files are taken in the order of the collection, which is random.
2. A worker stays in a folder as long as there is a file in it, since a folder's files share services. The next one is a folder that
   nobody is in yet, if there is one.
3. Tests that measure time have names that end in `_in_time`. They come when everything else has ended, one after another on one worker.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

_ALONE = "what measures time"


def measures_time(nodeid: str) -> bool:
    """Whether a test must be alone. Its id is all that a scheduler is told of it."""
    return nodeid.partition("[")[0].endswith("_in_time")


def timing_last(items: list[pytest.Item]) -> None:
    """Moves the tests that measure time to the end."""
    items.sort(key=lambda item: measures_time(item.nodeid))


def next_file(waiting: Sequence[str], own: Sequence[str], given: Sequence[str]) -> str:
    """Which of the waiting files a worker gets. `own`: those that it has got so far, in order; `given`: those that all workers have got."""
    own_folders = [PurePath(file).parent for file in own]
    taken = {PurePath(file).parent for file in given}

    def distance(file: str) -> int:
        folder = PurePath(file).parent
        return 0 if folder in own_folders[-1:] else 1 if folder in own_folders else 3 if folder in taken else 2

    return min(waiting, key=distance)


class Spread(LoadScopeScheduling):
    """Gives each worker one file after another; the last one that is left gets the tests that measure time."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        return _ALONE if measures_time(nodeid) else nodeid.partition("::")[0]

    def _must_wait(self) -> bool:
        """Whether nothing is left but what must be alone, and somebody else is still there."""
        return list(self.workqueue) == [_ALONE] and len(self.nodes) > 1

    def _assign_work_unit(self, node: WorkerController) -> None:
        if not self._must_wait():
            files = [file for file in self.workqueue if file != _ALONE] or [_ALONE]
            given = [file for files in self.assigned_work.values() for file in files]
            self.workqueue.move_to_end(next_file(files, list(self.assigned_work[node]), given), last=False)
            super()._assign_work_unit(node)

    def _reschedule(self, node: WorkerController) -> None:
        if not self._must_wait():
            super()._reschedule(node)
        elif node is not self.nodes[0]:
            node.shutdown()

    def remove_node(self, node: WorkerController) -> str | None:
        crashed = super().remove_node(node)
        for left in self.nodes:
            self._reschedule(left)
        return crashed
