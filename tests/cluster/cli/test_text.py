"""Text for people: what a plan says of numbers that are known only once the run has begun."""

from gristmill.cluster.cli.text import plan_lines
from gristmill.cluster.jobs.job import Plan


def test_a_plan_prints_numbers_and_says_where_it_knows_none() -> None:
    head, known, unknown, note = plan_lines(
        [
            Plan("generate", "generate-1", samples=1200, shards=20, actors=1, tokens=780_000),
            Plan("select", "select-2", notes=["exact -> minhash"]),
        ]
    )
    assert head.split()[:4] == ["job", "state", "samples", "shards"]
    assert known.split()[-3:] == ["0", "780,000", "generate-1"]
    assert "1,200" in known
    assert unknown.count("?") == 3
    assert note == "select: exact -> minhash"
