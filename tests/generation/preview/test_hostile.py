"""A preview of hostile prompts, replies, tags and reasons cannot steer the terminal."""

import io
import json

from rich.console import Console

from gristmill.cluster.contract.sample import Message, seed
from gristmill.cluster.models.engine import Reply, Write
from gristmill.cluster.text.terminal import visible
from gristmill.generation.preview.page import as_json, show
from gristmill.generation.preview.record import ModelCall, Preview, SampleTrace
from tests.cluster.text.test_terminal import ATTACK, check_harmless


def test_a_preview_is_harmless() -> None:
    request = Write((Message("user", ATTACK),), 16, seed=1)
    sample = seed([Message("user", ATTACK)], {"t": ATTACK}, dropped=f"judge: {ATTACK}")
    call = ModelCall("m", request, Reply(ATTACK, f"error: {ATTACK}", 1, 1), ATTACK)
    found, out = Preview((SampleTrace(sample, (call,)),), (call,)), io.StringIO()
    show(found, Console(file=out, force_terminal=False))
    check_harmless(out.getvalue())
    check_harmless(visible(json.dumps(as_json(found), ensure_ascii=False)))
