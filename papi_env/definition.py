"""What all that users define has in common: systems, models, scenarios and their parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from papi_env.errors import describe_validation, unknown_field
from papi_env.quantities import LIMIT_ERRORS, SAYS_ALL, Quantity

# chosen: more fields than any definition has (range 100-1e4).
_MOST_FIELDS = 1000


class Definition(BaseModel):
    """A part of what users define: cannot be changed, holds no unknown fields, no infinities.

    Every number of it is of a type in `quantities`, which refuses text and truth values. What is refused is a
    `ValidationError` whose messages name what was found, what was expected, and the nearest field; `define`
    puts them in one line, for systems as for scenarios.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def define(cls, data: Mapping[str, Any], where: str) -> Self:
        """The definition from plain data, such as parsed TOML or JSON; `where` names its origin in an error.

        Raises ConfigurationError: in one line, all fields that are refused, as for scenarios.
        """
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            raise describe_validation(where, error) from None

    @model_validator(mode="wrap")
    @classmethod
    def _explained(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(data, Mapping) and len(data) > _MOST_FIELDS:
            # Each would be looked for among the fields.
            raise ValueError(f"found {len(data)} fields, expected some of {', '.join(cls.model_fields)}")
        try:
            return handler(data)
        except ValidationError as error:
            items = [_explain(cls, item) for item in error.errors(include_url=False)]
            raise ValidationError.from_exception_data(error.title, items) from None


def _explain(model: type[Definition], item: ErrorDetails) -> InitErrorDetails:
    """An item of pydantic's report, in terms of the fields of `model`."""
    kind, message, found, where = item["type"], item["msg"], item["input"], item["loc"]
    if kind == "extra_forbidden":
        kind, message = SAYS_ALL, unknown_field(str(where[-1]), model.model_fields)
    elif len(where) == 1 and (quantity := quantity_of(model, str(where[0]))) is not None:
        if kind == "missing":
            kind, message = SAYS_ALL, f"Field required, expected {quantity.expected()}"
        elif kind in (*LIMIT_ERRORS, SAYS_ALL):
            # Again, for a message with the limits of the field, which may be narrower than the quantity's.
            kind, message = SAYS_ALL, quantity.refusal(found) or message
    error = PydanticCustomError(kind, message)
    return InitErrorDetails(type=error, loc=where, input=found)


def quantity_of(model: type[Definition], name: str) -> Quantity | None:
    """What a field of that name holds, within its own limits; None if it is no number."""
    field = model.model_fields.get(name)
    if field is None:
        return None
    # An optional number has its quantity inside the union, and its limits outside.
    inner = [extra for part in get_args(field.annotation) for extra in get_args(part)[1:]]
    quantity = next((extra for extra in (*field.metadata, *inner) if isinstance(extra, Quantity)), None)
    return None if quantity is None else quantity.narrowed(field.metadata)
