"""Where tests keep the networks that they compile: in the checkout, for all processes of a run and for the next runs.

What is kept is named after everything that it was made of, our own code included: a change of that compiles anew. `make clean` throws it away.
"""

from __future__ import annotations

from pathlib import Path

from flashbulb_server.pipelines.keeping import Cache

FOLDER = Path(__file__).parent.parent / ".graphs"
"""As `worker.cache_dir` of a worker, or FLASHBULB_WORKER__CACHE_DIR of a service."""

GRAPHS = Cache(FOLDER)
"""As an argument of `load_embedded` and `load_folder`."""
