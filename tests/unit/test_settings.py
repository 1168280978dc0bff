"""Settings: environment names, groups, units in names, readable errors, folders of defaults."""

from __future__ import annotations

import os
import typing
from pathlib import Path

import pytest
from pydantic.fields import FieldInfo

from mangalib.errors import SettingsError
from mangalib.settings import AwsSettings, PredictionSettings, Settings, changed_environment, environment, load_settings
from mangalib.settings.group import (
    Count,
    Group,
    Positive,
    output_folder,
    project_folder,
    trained_folder,
    working_folder,
)

GROUPS = [cls for cls in Settings.__mro__ if issubclass(cls, Group) and cls not in {Group, Settings}]


# Values


@pytest.mark.parametrize(
    ("name", "value", "field", "read"),
    [
        ("MANGA_TARGET", "aws", "target", "aws"),
        ("MANGA_AWS_URL", "http://localhost:5000", "aws_url", "http://localhost:5000"),
        ("MANGA_STORE", "s3://bucket/benchmark", "store", "s3://bucket/benchmark"),
        ("MANGA_POOL_SIZE", "7", "pool_size", 7),
        ("MANGA_ANSWERS_AHEAD", "false", "answers_ahead", False),
        ("MANGA_P95_SEV1", "0.5", "p95_sev1", 0.5),
        ("MANGA_SONNET_MODEL_ID", "some.model", "sonnet_model_id", "some.model"),
        ("MANGA_RUNS_URL", "/tmp/runs", "runs_url", "/tmp/runs"),
        ("MANGA_NOTEBOOKS_DIR", "/tmp/notebooks", "notebooks_dir", Path("/tmp/notebooks")),
    ],
)
def test_each_variable_sets_its_field(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, field: str, read: object
) -> None:
    monkeypatch.setenv(name, value)
    assert getattr(load_settings(), field) == read


def test_a_group_alone_reads_the_same_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANGA_REGION", "eu-west-1")
    assert AwsSettings().region == load_settings().region == "eu-west-1"


def test_the_environment_comes_before_a_dotenv_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MANGA_POOL_SIZE=7\nMANGA_KEEP_ALIVE_S=9\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MANGA_KEEP_ALIVE_S", "11")
    settings = load_settings()
    assert (settings.pool_size, settings.keep_alive_s) == (7, 11)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("MANGA_POOL_SIZE", "0", "greater than or equal to 1"),
        ("MANGA_POOL_SIZE", "five", "valid integer"),
        ("MANGA_TARGET", "moon", "'local' or 'aws'"),
        ("MANGA_KEEP_ALIVE_S", "-1", "greater than 0"),
        ("MANGA_EMBEDDING_DIMENSIONS", "7", "256, 512 or 1024"),
        ("MANGA_DATA_DIR", "/no/such/folder", "directory"),
    ],
)
def test_a_wrong_value_is_reported_with_variable_value_and_what_was_expected(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as wrong:
        load_settings()
    assert str(wrong.value).startswith(f"{name}='{value}': ")
    assert expected in str(wrong.value)


def test_all_wrong_values_are_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANGA_POOL_SIZE", "0")
    monkeypatch.setenv("MANGA_TARGET", "moon")
    with pytest.raises(SettingsError) as wrong:
        load_settings()
    assert {part.split(": ")[0] for part in str(wrong.value).split("; ")} == {
        "MANGA_POOL_SIZE='0'",
        "MANGA_TARGET='moon'",
    }


def test_a_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANGA_TOKEN", "very-secret")
    assert "very-secret" not in repr(load_settings())
    with pytest.raises(SettingsError) as wrong:
        load_settings(jwt_secret=["very-secret"])
    assert "MANGA_JWT_SECRET=***" in str(wrong.value)
    assert "very-secret" not in str(wrong.value)


# Groups


def test_every_setting_belongs_to_exactly_one_group() -> None:
    declared = [name for group in GROUPS for name in vars(group).get("__annotations__", {}) if name != "model_config"]
    assert sorted(declared) == sorted(Settings.model_fields), "declared twice, or in no group"


def test_every_group_has_a_docstring_and_settings_or_parts() -> None:
    for group in GROUPS:
        assert group.__doc__, group
        assert group.__doc__ != Group.__doc__, group
        assert group.model_fields, group


# Units

UNITS = ("_ms", "_s", "_h", "_days", "_hour_jst", "_per_s", "_per_second")
UNITS += ("_bytes", "_chars", "_tokens", "_usd", "_usd_per_mtok")
# The last word of a number that counts things. All others have no unit: seeds, a port, an order, a size of a vector.
COUNTED = {"answers", "attempts", "burst", "candidates", "cards", "connections", "entries", "events", "exchanges"}
COUNTED |= {
    "failures",
    "intent",
    "neighbours",
    "questions",
    "rows",
    "runs",
    "size",
    "support",
    "titles",
    "top",
    "turns",
}
COUNTED |= {"seed", "port", "order", "dimensions"}
# Ratios with no upper bound, by their ending; ratios up to 1 are known by their bound.
RATIOS = ("_sigma", "_exponent", "_sev1", "_sev2", "_sev3", "effect_size_min", "expected_batching_saving_share")


def has_unit_or_needs_none(name: str, field: FieldInfo) -> bool:
    if name.endswith(UNITS):
        return True
    whole_number = field.annotation is int or typing.get_origin(field.annotation) is typing.Literal
    last_word = name.removesuffix("_max").removesuffix("_min").rsplit("_", 1)[-1]
    if whole_number:
        return last_word in COUNTED
    upper = [getattr(bound, "le", getattr(bound, "lt", None)) for bound in field.metadata]
    return 1 in upper or name.endswith(RATIOS)


def is_number(field: FieldInfo) -> bool:
    return isinstance(field.default, int | float) and not isinstance(field.default, bool)


def test_every_number_has_its_unit_in_its_name_or_needs_none() -> None:
    without = [
        name
        for name, field in Settings.model_fields.items()
        if is_number(field) and not has_unit_or_needs_none(name, field)
    ]
    assert not without


def test_a_number_without_its_unit_is_noticed() -> None:
    class Unclear(Group):
        """Names that do not say what they are measured in."""

        drain_timeout: Positive = 30
        read_wait: Count = 5
        pool_size: Positive = 5
        message_length_max: Count = 1000
        retry_delay: float = 0.5

    named = [name for name, field in Unclear.model_fields.items() if has_unit_or_needs_none(name, field)]
    assert not named


def test_every_word_that_needs_no_unit_is_in_use() -> None:
    words = {
        name.removesuffix("_max").removesuffix("_min").rsplit("_", 1)[-1]
        for name, field in Settings.model_fields.items()
        if is_number(field) and not name.endswith(UNITS)
    }
    assert words >= COUNTED
    assert all(any(name.endswith(ending) for name in Settings.model_fields) for ending in RATIOS)


# Environments


def test_a_child_process_gets_settings_and_other_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANGA_REGION", "eu-west-1")
    child = environment({"pool_size": 3, "region": "us-east-1"}, AWS_ACCESS_KEY_ID="key")
    assert (child["MANGA_POOL_SIZE"], child["MANGA_REGION"], child["AWS_ACCESS_KEY_ID"]) == ("3", "us-east-1", "key")
    assert child["PATH"] == os.environ["PATH"]
    assert os.environ["MANGA_REGION"] == "eu-west-1"


def test_an_unknown_setting_for_a_child_process_is_refused() -> None:
    with pytest.raises(SettingsError, match="pool_sise"):
        environment({"pool_sise": 3})


def test_a_changed_environment_is_restored_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANGA_REGION", "eu-west-1")
    monkeypatch.delenv("MANGA_STORE", raising=False)

    def fail_inside() -> None:
        with changed_environment({"MANGA_REGION": "us-east-1", "MANGA_STORE": "/tmp/store"}):
            assert (os.environ["MANGA_REGION"], os.environ["MANGA_STORE"]) == ("us-east-1", "/tmp/store")
            raise KeyError("inside")

    with pytest.raises(KeyError):
        fail_inside()
    assert os.environ["MANGA_REGION"] == "eu-west-1"
    assert "MANGA_STORE" not in os.environ


# Folders of defaults


def test_in_a_checkout_defaults_lie_in_its_folders(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "data").mkdir()
    package = tmp_path / "mangalib"
    assert project_folder(package) == tmp_path
    assert output_folder(package) == tmp_path / "papermill_runs"
    assert trained_folder(package) == tmp_path / "data"
    assert working_folder(tmp_path / "notebooks" / "01.ipynb", package) == tmp_path / "notebooks"


def test_installed_defaults_lie_in_the_package_and_output_in_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "site-packages" / "mangalib"
    monkeypatch.chdir(tmp_path)
    assert project_folder(package) == package / "share"
    assert output_folder(package) == tmp_path / "papermill_runs"
    assert trained_folder(package) == output_folder(package)
    assert working_folder(package / "share" / "notebooks" / "01.ipynb", package) == tmp_path
    assert working_folder(tmp_path / "mine" / "01.ipynb", package) == tmp_path / "mine"


def test_until_a_transition_model_was_trained_the_packaged_one_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    packaged = project_folder() / "data" / "transitions.json"
    assert PredictionSettings().live_transition_model == packaged
    monkeypatch.setattr("mangalib.settings.precompute.trained_folder", lambda: tmp_path)
    trained = PredictionSettings(transition_model=tmp_path / "transitions.json")
    assert trained.live_transition_model == packaged
    trained.transition_model.touch()
    assert trained.live_transition_model == trained.transition_model
    elsewhere = PredictionSettings(transition_model=tmp_path / "elsewhere.json")
    assert elsewhere.live_transition_model == elsewhere.transition_model, "a file that was asked for is not replaced"
