"""`.env.example` lists every setting, once, with its default and an explanation."""

import re
from pathlib import Path

import pytest

from ops.settings import Settings

ENV_EXAMPLE = Path(__file__).parents[3] / ".env.example"
SETTING_LINE = re.compile(r"# ([A-Z][A-Z0-9_]*)=(.*)")


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return ENV_EXAMPLE.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_it_has_every_setting_once_and_no_other(lines: list[str]) -> None:
    found = [match[1] for line in lines if (match := SETTING_LINE.fullmatch(line))]
    assert sorted(found) == sorted(name.upper() for name in Settings.model_fields)


def test_nothing_is_set_until_somebody_uncomments_it(lines: list[str]) -> None:
    assert [line for line in lines if line and not line.startswith("#")] == []


@pytest.mark.usefixtures("no_settings_in_the_environment")
def test_its_values_are_the_defaults(lines: list[str], tmp_path: Path) -> None:
    uncommented = tmp_path / ".env"
    uncommented.write_text("\n".join(line[2:] for line in lines if SETTING_LINE.fullmatch(line)), encoding="utf-8")
    assert Settings(_env_file=uncommented) == Settings(_env_file=None)


@pytest.mark.parametrize("name", sorted(name.upper() for name in Settings.model_fields))
def test_a_line_before_the_setting_explains_it(lines: list[str], name: str) -> None:
    number = next(number for number, line in enumerate(lines) if line.startswith(f"# {name}="))
    before = lines[number - 1]
    assert before.startswith("# ")
    assert not SETTING_LINE.fullmatch(before)
