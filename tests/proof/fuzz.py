"""Fuzz: mutated inputs of every kind are used or refused in words; none ends in a traceback, in 30 s or above 2 GB.

    python -m tests.proof.fuzz 100000                    # in process, over all kinds
    python -m tests.proof.fuzz 100000 200 out.json       # and 200 whole commands; continues where it was ended

Each input follows from its kind and its number alone: `python -m tests.proof.fuzz ledger 4711` repeats one.
"""

import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from gristmill.cluster.contract.errors import GristmillError
from gristmill.cluster.models.template import UnrenderableError
from tests.proof.damage import WHOLE, damaged, tried
from tests.proof.inputs import KINDS, store_in

PROGRAM = "import sys; from gristmill.cluster.cli.main import main; sys.exit(main())"
LONGEST_S, MOST_GB = 30.0, 2.0
"""Most seconds of CPU and most memory of an input or a command."""
HANGS_S = 300.0
"""Seconds on the wall after which a command counts as hung and is killed."""
MACHINE = f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}, pyarrow {pa.__version__}"
BLOCK = 250
"""Inputs of a kind after which the state is written."""
ALL = (*WHOLE, *KINDS)


def try_one(kind: str, number: int) -> str:
    """Return what became of one input: `used` or `refused`.

    Raises:
        Exception: any that is not of ours, which is the finding.
    """
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        try:
            KINDS[kind](Path(folder), random.Random(f"{kind} {number}"))
        except (GristmillError, UnrenderableError) as error:
            str(error).encode()  # can be printed and stored
            return "refused"
    return "used"


def try_block(kind: str, begin: int, count: int) -> tuple[Counter[str], list[dict[str, Any]]]:
    """Try inputs of one kind, and return the outcomes and the findings."""
    outcomes, found = Counter[str](), list[dict[str, Any]]()
    if kind in WHOLE:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            try:
                outcomes = tried(kind, Path(folder), seed=begin, count=count)
            except Exception:  # noqa: BLE001 - the finding
                outcomes = Counter(traceback=count)  # the rest of the block is not tried
                found.append({"kind": kind, "number": begin, "error": traceback.format_exc()})
        if outcomes["unaccounted"]:
            found.append({"kind": kind, "number": begin, "error": "rows unaccounted for"})
        return outcomes, found
    for number in range(begin, begin + count):
        start = time.process_time()  # not the time on the wall, for busy machines
        try:
            outcomes[try_one(kind, number)] += 1
        except Exception:  # noqa: BLE001 - the finding
            outcomes["traceback"] += 1
            found.append({"kind": kind, "number": number, "error": traceback.format_exc()})
        if time.process_time() - start > LONGEST_S:
            outcomes["slow"] += 1
            found.append({"kind": kind, "number": number, "error": f"took more than {LONGEST_S} s"})
    return outcomes, found


def peak_gb() -> float:
    """Return the most memory that this process has had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


WEIGHTS = {"recipe": 3, "stored recipe": 20, "model": 4, "reply": 32, "template": 2, **dict.fromkeys(WHOLE, 4)}
"""Shares of the kinds in percent. The kinds that are not named share what is left evenly."""


def shares(total: int) -> dict[str, int]:
    """Return how many inputs of each kind are tried."""
    rest = [kind for kind in ALL if kind not in WEIGHTS]
    weights = WEIGHTS | dict.fromkeys(rest, (100 - sum(WEIGHTS.values())) / len(rest))
    return {kind: round(total * weights[kind] / 100) for kind in ALL}


def command(number: int) -> dict[str, Any]:
    """Run one whole command on a mutated input in a process of its own, and return what became of it."""
    stream = random.Random(f"command {number}")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        place = stream.choice(
            [f"recipe-{n}" for n in range(3)] + ["manifest.json", "ledger.jsonl", "shard-00000.arrow"]
        )
        store = store_in(folder)
        where = ["--store", store.uri]
        if place.startswith("recipe"):
            kind = stream.choice(sorted(WHOLE))
            rows = folder / kind
            rows.write_bytes(damaged(WHOLE[kind], stream))
            text = f'store = "{store.uri}"\n[select]\ninput = {{path = "{rows}", on_bad_row = "drop"}}\n'
            data = (text + 'steps = [{kind = "exact"}]\n').encode()
            (folder / "recipe.toml").write_bytes(damaged(data, stream) if stream.random() < 0.4 else data)
            words = [stream.choice(["plan", "run"]), str(folder / "recipe.toml")]
        else:
            at = store.folder("runs/night-1" if place == "ledger.jsonl" else "generate-1") / place
            at.write_bytes(damaged(at.read_bytes(), stream))
            verb = stream.choice(["show", "show", "head", "report", "export"])
            words = [verb, stream.choice(["night-1", "generate-1"]), *where]
            words[2:2] = [str(folder / "out.jsonl")] if verb == "export" else []
        program = [sys.executable, "-c", PROGRAM, *words]
        with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=folder) as process:
            assert process.stdout is not None
            killer = threading.Timer(HANGS_S, process.kill)
            killer.start()
            said = process.stdout.read().decode(errors="replace")
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            killer.cancel()
        seconds, gb = used.ru_utime + used.ru_stime, used.ru_maxrss / 1e6
    bad = "Traceback" in said or process.returncode not in (0, 1, 2, 75) or seconds > LONGEST_S or gb > MOST_GB
    facts = {"code": process.returncode, "seconds": round(seconds, 1), "gb": round(gb, 2)}
    return {**facts, **({"number": number, "words": words, "said": said[-4000:]} if bad else {})}


def main() -> int:
    """Try inputs of all kinds, write what became of them after each block, and go on where an earlier call ended."""
    if len(sys.argv) > 2 and sys.argv[1] in KINDS:
        sys.stdout.write(try_one(sys.argv[1], int(sys.argv[2])) + "\n")
        return 0
    total, commands, path = (*sys.argv[1:], *("5000", "0", "")[len(sys.argv) - 1 :])[:3]
    state: dict[str, Any] = json.loads(Path(path).read_text()) if path and Path(path).exists() else {}
    state = {"kinds": {}, "findings": [], "commands": {}, "peak_gb": 0.0, **state, "machine": MACHINE}

    def write() -> None:
        state["peak_gb"] = round(max(state["peak_gb"], peak_gb()), 2)
        if path:
            Path(path).write_text(json.dumps(state, indent=1, ensure_ascii=False) + "\n")

    for kind, count in shares(int(total)).items():
        done = Counter(state["kinds"].get(kind, {}))
        while done.total() < count:
            outcomes, found = try_block(kind, done.total(), min(BLOCK, count - done.total()))
            done += outcomes
            state["kinds"][kind] = dict(sorted(done.items()))
            state["findings"] += found
            write()
        sys.stdout.write(f"{kind:16} {json.dumps(state['kinds'].get(kind, {}))}\n")
        sys.stdout.flush()
    ran = Counter(state["commands"].get("codes", {}))
    for number in range(ran.total(), int(commands)):
        facts = command(number)
        ran[str(facts["code"])] += 1
        longest = max(state["commands"].get("longest_s", 0.0), facts["seconds"])
        most = max(state["commands"].get("peak_gb", 0.0), facts["gb"])
        state["commands"] = {"codes": dict(sorted(ran.items())), "longest_s": longest, "peak_gb": most}
        state["findings"] += [facts] if "said" in facts else []
        write()
    sys.stdout.write(f"commands         {json.dumps(state['commands'])}\n")
    for finding in state["findings"][:20]:
        sys.stdout.write(json.dumps(finding, ensure_ascii=False)[-1500:] + "\n")
    sys.stdout.write(f"{len(state['findings'])} findings, {state['peak_gb']} GB\n")
    return 1 if state["findings"] or state["peak_gb"] > MOST_GB else 0


if __name__ == "__main__":
    sys.exit(main())
