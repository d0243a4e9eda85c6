"""What the repository promises about itself: its commands, imports, sizes and names."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from leapalign.grid import Grid
from leapalign.parsing import resolve
from tests import tolerances

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("leapalign", "baselines", "eval", "pocket", "paper")
MEGABYTE = 1_000_000


def tracked() -> list[Path]:
    """The files that git tracks and that are there."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [file for file in files if file.is_file()]


def texts() -> list[tuple[str, str]]:
    """Name and content of every tracked text file."""
    found = []
    for file in tracked():
        try:
            found.append((str(file.relative_to(ROOT)), file.read_text(encoding="utf-8")))
        except UnicodeDecodeError:
            continue
    return found


def imported() -> dict[str, str]:
    """Every top-level module that the packages import, with a file that does."""
    modules = {}
    for file in tracked():
        if file.suffix == ".py" and file.relative_to(ROOT).parts[0] in PACKAGES:
            for node in ast.walk(ast.parse(file.read_text())):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    names = [node.module or ""]
                modules |= {name.split(".")[0]: str(file.relative_to(ROOT)) for name in names}
    return modules


def test_every_third_party_import_is_declared() -> None:
    optional = PROJECT["optional-dependencies"]["wandb"]
    lines = [*PROJECT["dependencies"], *optional]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    providers = metadata.packages_distributions()
    for module, file in imported().items():
        if module in sys.stdlib_module_names or module in PACKAGES:
            continue
        # What is not installed is a package of the module's own name.
        names = {canonicalize_name(name) for name in providers.get(module, [module])}
        assert names & declared, f"{file} imports {module}, which pyproject.toml does not declare"


def test_no_file_names_a_machine_or_a_registry() -> None:
    places = re.compile(
        r"(?<![\w.])/(?:home|root|Users|work|opt)/\w"
        r"|pypi\.org|pythonhosted\.org|registry\.npmjs|extra-index-url|find-links"
    )
    this = str(Path(__file__).relative_to(ROOT))
    checks = {this, "tests/test_lock.py"}  # they spell the patterns out
    for name, text in texts():
        match = places.search(text)
        assert match is None or name in checks, f"{name}: {match and match.group()}"


def test_files_are_small_and_the_pocket_weights_fit_25_megabytes() -> None:
    sizes = {str(file.relative_to(ROOT)): file.stat().st_size for file in tracked()}
    large = {name: size for name, size in sizes.items() if size > 8 * MEGABYTE}
    assert not large
    weights = [size for name, size in sizes.items() if name.startswith("pocket/weights/")]
    assert sum(weights) <= 25 * MEGABYTE


def test_python_modules_hold_one_thing_each() -> None:
    longest = {name: text.count("\n") for name, text in texts() if name.endswith(".py")}
    assert not {name: lines for name, lines in longest.items() if lines > 400}


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_every_make_command_in_the_documents_exists(document: str) -> None:
    targets = set(re.findall(r"^([a-z_]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = set(re.findall(r"(?<![a-z])make ([a-z]+)\b", code_of(document)))
    assert used
    assert used <= targets


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_every_snakemake_target_in_the_documents_is_a_rule_or_an_exhibit(document: str) -> None:
    rules = {
        rule
        for name, text in texts()
        if name.endswith((".smk", "Snakefile"))
        for rule in re.findall(r"^\s*(?:rule|checkpoint) (\w+):", text, re.MULTILINE)
    }
    experiments = yaml.safe_load((ROOT / "paper/experiments.yaml").read_text())
    exhibits = {
        f"{kind}_{name}" for kind in ("table", "figure") for name in experiments[f"{kind}s"]
    }
    used = set(re.findall(r"\b((?:table|figure)_[a-z_]+)\b", code_of(document)))
    for arguments in re.findall(r"^snakemake (.*)$", code_of(document), re.MULTILINE):
        words = shlex.split(arguments, comments=True)
        values = {words[n + 1] for n, word in enumerate(words[:-1]) if word == "--cores"}
        used |= {word for word in words if re.fullmatch(r"[a-z_]+", word)} - values
    assert used
    assert used <= rules | exhibits


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_every_path_that_a_document_links_to_exists(document: str) -> None:
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", (ROOT / document).read_text())
    local = [link for link in links if "://" not in link]
    missing = [link for link in local if not (ROOT / link).exists()]
    assert not missing


def test_the_worked_example_of_a_method_makes_plans() -> None:
    method = resolve(f"{ROOT}/docs/examples/draft_k.py:DRaFTK", "the example")
    grid = Grid.shifted(25, 3.0)
    plan = method().plan(grid, np.random.default_rng(0))
    assert [leap.active for leap in plan.leaps] == [(22,), (23,), (24,)]
    span = sum(weight for leap in plan.leaps for weight in leap.weight.values())
    assert span == pytest.approx(-grid.sigmas[22], abs=tolerances.WEIGHTS_TELESCOPE)


def test_one_version_stands_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]


def code_of(document: str) -> str:
    """The commands in a document: its code blocks and inline code."""
    text = (ROOT / document).read_text()
    blocks = re.findall(r"^```.*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    return "\n".join([*blocks, *inline])
