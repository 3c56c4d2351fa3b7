"""What is said about packages in several files agrees."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
PROJECT = (ROOT / "pyproject.toml").read_text("utf-8")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_targets_of_the_makefile_only(path: Path) -> None:
    """They cannot be run here, so they contain nothing that could be wrong."""
    steps = re.findall(r"(?m)^\s*-? ?run: +(\S.*)$", path.read_text("utf-8"))
    assert steps
    for step in steps:
        found = re.fullmatch(r"make ([a-z-]+)( [A-Z]+=\w+)*", step)
        assert found, step
        assert re.search(rf"(?m)^{found[1]}:", MAKEFILE), step


def test_there_are_workflows() -> None:
    assert len(WORKFLOWS) >= 2


def test_every_target_with_a_description_is_phony() -> None:
    phony = set(re.findall(r"(?m)^\.PHONY: (.*)$", MAKEFILE)[0].split())
    assert set(re.findall(r"(?m)^([a-z-]+):.*##", MAKEFILE)) <= phony


def test_the_versions_of_python_are_the_same_everywhere() -> None:
    claimed = set(re.findall(r"Python :: (3\.\d+)", PROJECT))
    matrix = re.findall(r"(?m)^MATRIX = (.*)$", MAKEFILE)[0].split()
    wheels = re.findall(r'(?m)^build = "(.*)"$', PROJECT)[0].split()
    tested = re.findall(r"python: \[(.*)\]", (ROOT / ".github/workflows/test.yml").read_text("utf-8"))[0]
    assert {each.partition("-")[0] for each in matrix} == claimed
    assert {each.replace("cp3", "3.").partition("-")[0] for each in wheels} == claimed
    assert set(re.findall(r"3\.\d+", tested)) == claimed
    assert (
        min(claimed, key=lambda each: int(each[2:])) == re.findall(r'requires-python = ">=(.*)"', PROJECT)[0]
    )
