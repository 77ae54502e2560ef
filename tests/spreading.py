"""How tests are spread over the workers of pytest-xdist (`pytest -n 2`).

1. A file is one worker's, so that what its tests share is made once. Files are taken in the order of the collection, which is random.
2. Tests that measure time are in files named `test_timing*.py`. They come when everything else has ended, one after another on one worker.
"""

from __future__ import annotations

from pathlib import PurePath

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

_ALONE = "what measures time"


def measures_time(path: PurePath | str) -> bool:
    """Whether a file's tests must be alone."""
    return PurePath(path).name.startswith("test_timing")


def timing_last(items: list[pytest.Item]) -> None:
    """Moves the tests that measure time to the end."""
    items.sort(key=lambda item: measures_time(item.path))


class Spread(LoadScopeScheduling):
    """Gives each worker one file after another; the last one that is left gets the tests that measure time."""

    def __init__(self, config: pytest.Config, log: Producer) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return _ALONE if measures_time(file) else file

    def _must_wait(self) -> bool:
        """Whether nothing is left but what must be alone, and somebody else is still there."""
        return list(self.workqueue) == [_ALONE] and len(self.nodes) > 1

    def _assign_work_unit(self, node: WorkerController) -> None:
        if not self._must_wait():
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
