"""A model folder of strangers runs no code of its own: templates are sandboxed, and nothing is unpickled."""

import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from gristmill.cluster.contract.sample import Message
from gristmill.cluster.models.template import ChatTemplate, UnrenderableError

TURNS = (Message("user", "Hi"), Message("assistant", "Yes."))
ROOT = Path(__file__).parents[3]
OWN_CHECKPOINTS = ("training/partitions.py",)
"""Files that read, by pickle as DeepSpeed writes them, the checkpoints of the run that goes on."""
ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch OUT') }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'content': 'x'}) }}",
    "{{ strftime_now.__globals__ }}",
    "{% for a in range(10 ** 9) %}{% endfor %}",
    "{{ self.__init__.__globals__ }}",
)


@pytest.mark.parametrize("source", ESCAPES)
def test_a_template_cannot_leave_the_sandbox(source: str, tiny: str, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = source.replace("OUT", str(tmp_path / "out"))
    template = ChatTemplate(tokenizer)
    for render in (
        lambda: template.render(TURNS, tokenize=False),
        lambda: template.marks(TURNS),
    ):
        try:
            shown = str(render())
        except UnrenderableError as error:
            assert "template" in str(error)
        else:
            assert "class '" not in shown and "globals" not in shown
    assert not (tmp_path / "out").exists() and TURNS[0].text == "Hi"


def test_nothing_is_unpickled_and_code_of_models_is_never_trusted_by_default() -> None:
    unsafe = re.compile(
        r"\bpickle\.loads?\(|torch\.load\(|trust_remote_code\s*=\s*True|allow_pickle\s*=\s*True|\beval\("
    )
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for folder in ("cluster", "generation", "selection", "training")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if unsafe.search(line.replace(".eval()", ""))
    ]
    assert [line for line in found if not line.startswith(OWN_CHECKPOINTS)] == []
