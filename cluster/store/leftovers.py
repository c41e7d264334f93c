"""The files that a complete folder has left from its making."""

import fnmatch
import re
from collections.abc import Iterable, Sequence

from gristmill.cluster.store.backend import Entry
from gristmill.cluster.store.files import TEMPORARY

_OF_MAKING = r"(raw|shard)-\d+(\.\d+\+\d+)?\.(arrow|json)|\d+-[0-9a-f]{8}\.jsonl|dtypes\.json"
_OF_MAKING += rf"|\..+{re.escape(TEMPORARY)}"
"""Matches the names of shards, their commit files, logs of rows, files that were being written, and chosen dtypes."""


def leftovers(found: Iterable[Entry], listed: set[str], working: Sequence[str] = ()) -> list[Entry]:
    """Return the files that the manifest does not list, and that only a job has written.

    They have names that only stores give, or that match a pattern of `working`. Another file may be a person's.

    Args:
        found: all files of the folder.
        listed: paths of the files that the manifest lists, and of the manifest.
        working: patterns of paths of the job's working files; see `Job.working`.
    """
    commits = {name.removesuffix(".arrow") + ".json" for name in listed if name.endswith(".arrow")}
    names = (*map(re.escape, commits), *(fnmatch.translate(pattern) for pattern in working))
    ours = re.compile("|".join([f"(?:.*/)?(?:{_OF_MAKING})", *names]))
    return [entry for entry in found if entry.path not in listed and ours.fullmatch(entry.path)]
