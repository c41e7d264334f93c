"""What the report says of selection: steps, topics, pairs and baselines, from the job's figures or from the rows."""

import re
from typing import Any

from gristmill.cluster.contract.sample import to_table
from gristmill.cluster.jobs.figures import Figures
from gristmill.cluster.store.store import Manifest, Store
from gristmill.selection.figures import Pair, Topic, UnknownScript
from tests.cluster.report.test_report import SAMPLES, bars_of, begin, figures_of, page_of, put, step

SELECT = figures_of(
    "select",
    3,
    2,
    steps=(
        step("exact", 3, 3),
        step(
            "private",
            3,
            2,
            seconds=1.25,
            reasons={"private: not <voted> for": 1},
            figures={"epsilon": 1.0, "delta": 1e-6},
        ),
    ),
    topics=(
        Topic(name="rivers, 河流", rows=2, kept=1, examples=(SAMPLES[0].id, SAMPLES[2].id)),
        Topic(name="<lakes>", rows=1, kept=1, examples=("e" * 32,)),
    ),
    unknown_scripts=(UnknownScript(model="some-encoder", script="Thai", rows=1200, unknown=0.973),),
    pairs=(Pair(step="semantic", score=0.9712, id=SAMPLES[2].id, text="<i>Name</i>", to="x", to_text="列举"),),
    baselines={
        "chosen": {"samples": 2, "mean judge": 4.0, "coverage of the pool": 0.81234},
        "random": {"samples": 2, "mean judge": 3.7},
        "longest": {"samples": 2, "mean answer length": 12345.678},
    },
)


def tables_of(page: str, heading: str) -> list[list[str]]:
    """The rows of the tables in a section, cells without markup."""
    section = page.split(f"<h2>{heading}</h2>")[1].split("</section>", maxsplit=1)[0]
    rows = re.findall(r"<tr>(.*?)</tr>", section, re.DOTALL)
    return [[re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<t[dh].*?</t[dh]>", row, re.DOTALL)] for row in rows]


def put_selection(store: Store, figures: Figures) -> tuple[str, dict[str, Any]]:
    put(store, "generate-1", SAMPLES)
    shard = store.commit_shard("select-1", "shard-00000", to_table(SAMPLES[:3]))
    manifest = Manifest("select-1", "samples", "select", "f" * 32, {"samples": "generate-1"}, {}, (shard,))
    store.commit(manifest, figures.to_json())
    ledger = begin(store, generate="generate-1", select="select-1")
    for job in ("generate", "select"):
        ledger.append("job_done", job=job, output=f"{job}-1", figures={})
    return page_of(store)


def test_the_steps_of_selection_stand_in_the_funnel_and_in_a_table(store: Store) -> None:
    page, data = put_selection(store, SELECT)
    assert list(bars_of(data, 0).items())[-3:] == [
        ("after exact", "3  (50%)"),
        ("after private", "2  (33%)"),
        ("kept", "2  (33%)"),
    ]
    assert tables_of(page, "Selection, step by step")[1:] == [
        ["exact", "3", "0", "0.0%", "3", "0.1", "", ""],
        ["private", "3", "1", "33.3%", "2", "1.2", "not &lt;voted&gt; for: 1", "epsilon: 1\ndelta: 1e-06"],
    ]


def test_topics_are_a_map_with_counts_rates_and_examples(store: Store) -> None:
    page, data = put_selection(store, SELECT)
    (trace,) = next(f["data"] for f in data["figures"].values() if f["data"][0]["type"] == "treemap")
    assert trace["labels"] == ["rivers, 河流", "&lt;lakes&gt;"]
    assert trace["values"] == [2, 1]
    assert trace["marker"]["colors"] == [0.5, 0.0]
    assert trace["text"][0] == "2 samples<br>50% dropped"
    assert tables_of(page, "Map of topics")[1:] == [
        ["rivers, 河流", "2", "1", "50%", "列举三条河流\nName three rivers"],
        ["&lt;lakes&gt;", "1", "0", "0%", "e" * 32],
    ]


def test_an_example_beyond_what_is_read_is_looked_up(store: Store) -> None:
    put_selection(store, SELECT)
    page, _ = page_of(store, max_rows=1)
    assert tables_of(page, "Map of topics")[1][4] == "列举三条河流\nName three rivers"


def test_pairs_stand_side_by_side(store: Store) -> None:
    page, _ = put_selection(store, SELECT)
    assert tables_of(page, "Pairs")[1:] == [["semantic", "0.971", "&lt;i&gt;Name&lt;/i&gt;", "列举"]]


def test_every_step_has_its_share_of_the_pairs(store: Store) -> None:
    pairs = tuple(Pair(step=kind, id="", text=f"{n}", to="e" * 32, to_text="") for kind in "abc" for n in range(40))
    page, _ = put_selection(store, figures_of("select", 3, 2, pairs=pairs))
    shown = [row[0] for row in tables_of(page, "Pairs")[1:]]
    assert {kind: shown.count(kind) for kind in "abc"} == {"a": 26, "b": 26, "c": 26}
    assert tables_of(page, "Pairs")[1] == ["a", "", "0", "e" * 32]


def test_the_choice_stands_beside_its_baselines(store: Store) -> None:
    page, _ = put_selection(store, SELECT)
    assert tables_of(page, "Compared with the baselines") == [
        ["", "chosen", "random", "longest"],
        ["samples", "2", "2", "2"],
        ["mean judge", "4", "3.7", ""],
        ["coverage of the pool", "0.812", "", ""],
        ["mean answer length", "", "", "12,346"],
    ]


def test_scripts_that_the_encoder_does_not_know_are_named(store: Store) -> None:
    page, _ = put_selection(store, SELECT)
    assert tables_of(page, "Not compared by meaning")[-1] == ["some-encoder", "Thai", "1,200", "97%"]
