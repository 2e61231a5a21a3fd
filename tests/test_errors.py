"""An error says what was found, what was expected, and the nearest thing that exists."""

import pytest
from pydantic import BaseModel, ConfigDict, Field

from papi_env.errors import (
    ConfigurationError,
    DataError,
    describe_validation,
    lookup,
    nearest,
    unknown_name,
)

REGISTRY = {"papi": 1, "a100-attacc": 2, "attacc-only": 3}


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int = Field(1, ge=1, le=8)


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    inner: Inner = Inner()


def refusal(data):
    with pytest.raises(ValueError, match="validation error") as caught:
        Outer.model_validate(data)
    return describe_validation("file.toml", caught.value, {"name", "inner", "size"})


def test_both_errors_are_value_errors_and_told_apart():
    assert issubclass(ConfigurationError, ValueError)
    assert issubclass(DataError, ValueError)
    assert not issubclass(DataError, ConfigurationError)


def test_a_known_name_gives_its_entry():
    assert lookup("system", "papi", REGISTRY) == 1


@pytest.mark.parametrize("name", ["pappi", "PAPI", "", None, 3, ["papi"], {"base": "papi"}, float("nan")])
def test_an_unknown_name_lists_every_known_one(name):
    with pytest.raises(ConfigurationError, match="Unknown system") as caught:
        lookup("system", name, REGISTRY)
    assert repr(name) in str(caught.value)
    assert "Known: a100-attacc, attacc-only, papi." in str(caught.value)


def test_the_nearest_name_is_offered_only_where_one_is_near():
    assert "Did you mean 'papi'?" in str(unknown_name("system", "PAPPI", REGISTRY))
    assert "Did you mean" not in str(unknown_name("system", "xyz", REGISTRY))


def test_case_does_not_hide_the_nearest_name():
    assert nearest("AttAcc-Only", REGISTRY) == "attacc-only"
    assert nearest("zzz", REGISTRY) is None


def test_a_refused_field_is_named_with_what_was_found_and_expected():
    message = str(refusal({"name": "x", "inner": {"size": 9}}))
    assert message == "file.toml: inner.size: found 9: Input should be less than or equal to 8"


def test_a_misspelt_field_is_answered_with_the_nearest_one():
    message = str(refusal({"name": "x", "inner": {"sise": 2}}))
    assert message == "file.toml: inner.sise: not a known field; did you mean 'size'?"


def test_every_refused_field_is_reported_at_once():
    message = str(refusal({"inner": {"size": "many"}, "extra": 1}))
    assert all(field in message for field in ("name:", "inner.size:", "extra:"))


def test_a_long_table_is_not_repeated_in_the_message():
    assert "filler" not in str(refusal({"inner": {"size": 1}, "extra": ["filler"] * 100}))
