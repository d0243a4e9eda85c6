"""The lock is complete, hashed and portable, and agrees with pyproject.toml and environment.yml."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = (ROOT / "requirements.lock").read_text()
ENTRIES = re.sub(r"\s*\\\n", " ", re.sub(r"^#.*\n", "", LOCK, flags=re.MULTILINE)).splitlines()
PINS = [Requirement(entry.split("--hash")[0]) for entry in ENTRIES]
PARITY_ONLY = ("hpsv2", "hpsv3")  # installed without their dependencies, whose pins clash
PLATFORMS = [
    {"sys_platform": system, "platform_system": name, "platform_machine": machine}
    for system, name, machine in [
        ("linux", "Linux", "x86_64"),
        ("linux", "Linux", "aarch64"),
        ("darwin", "Darwin", "arm64"),
    ]
]


def declared(environment: dict[str, str] | None = None) -> list[Requirement]:
    """What pyproject.toml asks for in an environment, by default this one."""
    return [r for r in written() if r.marker is None or r.marker.evaluate(environment)]


def written() -> list[Requirement]:
    """Everything that pyproject.toml asks for, whatever the environment."""
    project = PROJECT["project"]
    lists = [
        project["dependencies"],
        project["optional-dependencies"]["dev"],
        PROJECT["dependency-groups"]["parity"],
    ]
    return [Requirement(line) for requirements in lists for line in requirements]


def pinned(environment: dict[str, str] | None = None) -> dict[str, str]:
    """The lock's versions by canonical name, as one environment selects them."""
    selected: dict[str, str] = {}
    for pin in PINS:
        if pin.marker is None or pin.marker.evaluate(environment):
            name = canonicalize_name(pin.name)
            assert name not in selected, f"{name} is pinned twice for one environment"
            selected[name] = next(iter(pin.specifier)).version
    return selected


def needs(name: str, extras: set[str]) -> Iterator[Requirement]:
    """What an installed distribution needs here, with these extras."""
    for line in metadata.requires(name) or []:
        requirement = Requirement(line)
        marker: Marker | None = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras | {""}):
            yield requirement


def test_every_entry_is_one_exact_version_with_hashes() -> None:
    for entry, pin in zip(ENTRIES, PINS, strict=True):
        assert [clause.operator for clause in pin.specifier] == ["=="], entry[:60]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}( |$)", entry), entry[:60]


def test_the_lock_names_no_host_and_no_place() -> None:
    assert not re.search(r"://|index-url|find-links|file:|@ ", LOCK)


def test_the_lock_holds_all_that_pyproject_asks_for_within_its_bounds() -> None:
    versions = pinned()
    for requirement in declared():
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)])


def test_the_lock_is_closed_under_dependencies() -> None:
    versions = pinned()
    queue = [(canonicalize_name(r.name), frozenset(r.extras)) for r in declared()]
    seen: set[tuple[str, frozenset[str]]] = set()
    while queue:
        name, extras = queue.pop()
        if (name, extras) in seen or name in PARITY_ONLY:
            continue
        seen.add((name, extras))
        for requirement in needs(name, set(extras)):
            needed = canonicalize_name(requirement.name)
            assert needed in versions, f"{name} needs {needed}, which the lock lacks"
            assert requirement.specifier.contains(versions[needed], prereleases=True), (
                f"{name} needs {requirement}, the lock has {versions[needed]}"
            )
            queue.append((needed, frozenset(requirement.extras)))


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("platform", PLATFORMS, ids=lambda p: "-".join(p.values()))
def test_every_python_and_platform_selects_one_version_of_each(
    python: str, platform: dict[str, str]
) -> None:
    environment = {
        **default_environment(),
        **platform,
        "python_version": python,
        "python_full_version": f"{python}.0",
    }
    versions = pinned(environment)
    assert {canonicalize_name(r.name) for r in declared(environment)} <= versions.keys()


def test_conda_users_get_the_same_requirements() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    python = next(line for line in environment if str(line).startswith("python "))
    assert python == f"python {PROJECT['project']['requires-python']}"
    by_pip = next(entry["pip"] for entry in environment if isinstance(entry, dict))
    expected = {str(r) for r in written() if r.name not in PARITY_ONLY}
    assert {str(Requirement(line)) for line in by_pip} == expected
    for official in (str(r) for r in written() if r.name in PARITY_ONLY):
        assert official in (ROOT / "environment.yml").read_text()
