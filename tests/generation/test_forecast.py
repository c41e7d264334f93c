"""What a plan says of tokens, time and money, before any job has run and after one."""

from gristmill.cluster.contract.sample import from_table
from gristmill.cluster.models.engine import Engine
from gristmill.cluster.store.store import Store
from gristmill.generation.forecast import MAX_SHARDS, TOKENS_PER_DRAFT
from gristmill.generation.job import Generate
from tests.generation.ground import WORK, ground, job, with_seeds

RULES = [{"kind": "length"}]


def test_word_operations_cost_no_tokens_and_those_that_ask_do(store: Store) -> None:
    def tokens(**settings: object) -> int:
        return job(filters=RULES, methods=[{"kind": "augment", **settings}]).plan(store, WORK).tokens

    assert tokens() == 0
    assert tokens(operations=["paraphrase"]) > 0
    assert tokens(synonyms="model") > 0
    assert tokens(labels=["a", "b"]) > 0
    judged = job(filters=[{"kind": "judge"}], methods=[{"kind": "augment"}]).plan(store, WORK)
    assert judged.tokens > 0


def test_a_plan_names_the_tokens_of_each_method(store: Store) -> None:
    plan = job(filters=RULES, methods=[{"kind": "augment"}, {"kind": "self_instruct"}]).plan(store, WORK)
    assert {"augment: asks no model", "self_instruct: 650 tokens a draft, assumed"} <= {*plan.notes}
    assert plan.tokens == plan.samples * TOKENS_PER_DRAFT / 2


def test_tokens_are_those_that_the_store_has_measured(store: Store) -> None:
    generate = job(filters=RULES, target=20)
    ground(with_seeds(store), generate)
    shards = store.manifest(WORK.output).shards[:MAX_SHARDS]
    rows = [row for shard in shards for row in from_table(store.read_shard(WORK.output, shard))]
    origins = [row.origin for row in rows if row.origin]
    mean = sum(o.prompt_tokens + o.reply_tokens for o in origins) / len(origins)
    plan = job(filters=RULES, target=40).plan(store, WORK)
    assert plan.tokens == round(plan.samples * mean)
    assert f"self_instruct: {mean:,.0f} tokens a draft, measured in this store" in plan.notes
    other = Generate(filters=generate.filters, engine=Engine(model="builtin:other"), target=40).plan(store, WORK)
    assert other.tokens == other.samples * TOKENS_PER_DRAFT


def test_money_follows_from_tokens_and_prices(store: Store) -> None:
    engine = {"price": {"prompt": 1.0, "reply": 1.0}}
    plan = job(filters=RULES, engine=engine, target=1000).plan(store, WORK)
    assert f"about {plan.tokens / 1e6:,.2f} in money" in plan.notes
