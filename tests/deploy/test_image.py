"""The image: what it copies is there and not ignored, and it is set up by the Makefile."""

import re
import subprocess

from tests.paths import ROOT

DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text(encoding="utf-8")


def instructions() -> list[tuple[str, str]]:
    """Each instruction with its arguments; continued lines are one, comments are left out."""
    lines = [line for line in DOCKERFILE.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    whole = re.sub(r"\\\n", " ", "\n".join(lines)).splitlines()
    made = [line.split(maxsplit=1) for line in whole]
    return [(word, rest) for word, rest in made]


def copied() -> list[str]:
    return [source for word, rest in instructions() if word == "COPY" for source in rest.split()[:-1]]


def test_every_instruction_is_one_of_docker() -> None:
    words = [word for word, _ in instructions()]
    assert words[0] == "FROM" and set(words) <= {"FROM", "ARG", "RUN", "WORKDIR", "ENV", "COPY", "USER", "CMD"}


def test_what_it_copies_is_in_git_and_not_ignored() -> None:
    ignore = (ROOT / "deploy/Dockerfile.dockerignore").read_text().split()
    taken = [line.removeprefix("!") for line in ignore if line.startswith("!")]
    for source in copied():
        tracked = subprocess.run(
            ["git", "ls-files", "--error-unmatch", source], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert tracked.returncode == 0, tracked.stderr
        assert source.rstrip("/") in taken
    assert sorted(taken) == sorted(source.rstrip("/") for source in copied())
    assert ignore[0] == "*"


def test_it_copies_all_that_the_package_is_built_of() -> None:
    import tomllib

    made = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    parts = set(made["tool"]["setuptools"]["package-dir"].values()) | {made["project"]["readme"]}
    parts |= set(made["project"]["license-files"])
    assert parts <= {source.rstrip("/") for source in copied()}


def made_by(target: str, flavour: str) -> str:
    """The commands of a target of the Makefile, in a folder where nothing is made yet."""
    words = ["make", "--no-print-directory", "--dry-run", "--always-make", target]
    words += [f"FLAVOUR={flavour}", "VENV=/nowhere/.venv"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_it_is_set_up_by_the_makefile_from_the_lock_of_its_flavour() -> None:
    targets = [match[1] for word, rest in instructions() if word == "RUN" and (match := re.match(r"make (\w+)", rest))]
    assert targets == ["packages", "setup"]
    for flavour in ("cpu", "gpu"):
        packages, setup = made_by("packages", flavour), made_by("setup", flavour)
        assert f"-r deploy/lock/{flavour}.txt" in packages and " -e ." not in packages
        assert setup.startswith(packages.rstrip("\n")) and " -e ." in setup
    assert "PATH=/opt/gristmill/.venv/bin:$PATH" in dict(instructions())["ENV"]
    assert ("WORKDIR", "/opt/gristmill") in instructions()
