"""Identity: canonical JSON that refuses unstable values, fingerprints, sample ids, request seeds.

The ids of made samples are known before a model is called. So a retried shard writes the same rows again, and no
duplicates.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from random import Random

ID_HEX = 32
"""Length of a sample id in hexadecimal digits (128 bits)."""
SHORT_HEX = 12
"""Length of a fingerprint in a path, in hexadecimal digits."""


def canonical(value: object) -> str:
    """Return the canonical JSON text of a value: keys are sorted, and there are no spaces.

    Raises:
        TypeError: if the value holds anything but JSON types and tuples, such as callables, objects, sets or NaN. With
            `str(value)` instead, such a value would change the fingerprint unnoticed.
    """
    _refuse_unstable(value, "value")
    return _ENCODER.encode(value)


_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_PLAIN = (str, int, bool, type(None))


def _refuse_unstable(value: object, where: str) -> None:
    if isinstance(value, _PLAIN):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TypeError(f"{where}: {value} has no JSON form, must be finite")
    elif isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{where}: key {key!r} is {type(key).__name__}, must be a string")
            _refuse_unstable(inner, f"{where}.{key}")
    elif isinstance(value, (list, tuple)):  # as a union it would be twice as slow, for every id
        for place, inner in enumerate(value):
            if not isinstance(inner, _PLAIN):
                _refuse_unstable(inner, f"{where}[{place}]")
    else:
        raise TypeError(f"{where}: {type(value).__name__} has no stable form, must be a JSON value")


def digest(*parts: object) -> str:
    """Return 32 hex digits (BLAKE2b, 128 bits) of the canonical JSON of the parts."""
    return hashlib.blake2b(canonical(list(parts)).encode(), digest_size=ID_HEX // 2).hexdigest()


def of_bytes(data: bytes | memoryview) -> str:
    """Return 32 hex digits (BLAKE2b, 128 bits) of bytes. It is used for arrays, which are too long for JSON."""
    return hashlib.blake2b(data, digest_size=ID_HEX // 2).hexdigest()


def made_id(step: str, parents: Sequence[str], ordinal: int) -> str:
    """Return the id of a made sample from the step's fingerprint, its parents' ids and its ordinal in the job."""
    return digest("made", step, list(parents), ordinal)


def request_seed(sample_id: str, call: int) -> int:
    """Return the sampling seed in [0, 2^31) of the `call`-th request made for a sample."""
    return int(digest("request", sample_id, call)[:8], 16) >> 1


def stream(*parts: object) -> Random:
    """Return a random stream that depends only on the parts. It is the same in every process."""
    return Random(int(digest("stream", *parts), 16))
