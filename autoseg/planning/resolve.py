"""Resolves the values of a plan one after another: the user's value, or else the rule's, with its reason.

Owns: `Resolver`, which keeps values and reasons and builds the parts of a plan; rules that a caller adds.
Does not own: the rules (`rules/`), the order in which values are resolved (`planner.py`), overlays and `--set`
(`config/overrides.py`).

Values are resolved in the order in which they depend on each other. So a changed value is an input of the rules after
it: another spacing gives another window, another backbone another image size, another network another batch.
"""

import difflib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from autoseg.config.overrides import Overrides, is_part
from autoseg.config.plans import SET_BY, Device, Plans, Reason, list_errors
from autoseg.errors import PlanError
from autoseg.planning.explain import find_reason
from autoseg.planning.fingerprint.fingerprint import Fingerprint
from autoseg.planning.rules.choice import Choice

Part = TypeVar("Part", bound=BaseModel)


@dataclass(frozen=True)
class RuleInput:
    """The input of a rule that a caller adds.

    Attributes:
        fingerprint: The measurements of the dataset.
        device: The device that the plan is made for.
        values: The values resolved so far, by field, such as "network.backbone".
        planned: What autoseg's own rule chooses, or the default where it has no rule.
    """

    fingerprint: Fingerprint
    device: Device
    values: Mapping[str, Any]
    planned: Choice[Any]


Rule = Callable[[RuleInput], Choice[Any]]


class Resolver:
    """Resolves the values of one plan.

    Attributes:
        values: The values resolved so far, by field.
        reasons: The reasons of the values, by field.
    """

    def __init__(
        self, fingerprint: Fingerprint, *, device: Device, overrides: Overrides, rules: Mapping[str, Rule]
    ) -> None:
        """Begin without values.

        Args:
            fingerprint: The measurements of the dataset.
            device: The device that the plan is made for.
            overrides: The values that the user sets.
            rules: Rules that replace autoseg's own, by field.
        """
        self.values: dict[str, Any] = {}
        self.reasons: dict[str, Reason] = {}
        self._fingerprint, self._device = fingerprint, device
        self._overrides, self._rules = overrides, rules

    def resolve(self, field: str, choice: Choice[Any]) -> Any:
        """Return the value of a field, and keep it with its reason.

        Args:
            field: A name such as "network.backbone".
            choice: What autoseg's own rule chooses.

        Raises:
            PlanError: A rule that the caller added returns a value that the field cannot have.
        """
        if field in self._rules:
            choice = self._ask(field, choice)
        self.reasons[field] = choice.reason
        self.values[field] = choice.value
        if field in self._overrides.values:
            with suppress(ValidationError):  # `build` reports it together with all other errors of the part
                self.values[field] = _parse(field, self._overrides.values[field])
            self._set_reason(field, planned=choice.value)
        return self.values[field]

    def build(self, model: type[Part], name: str, values: Mapping[str, Any]) -> Part:
        """Build a part of the plan from its values and from what the user sets in it beside them.

        Args:
            model: The class of the part.
            name: The name of the part in the plan, such as "network".
            values: Its values; all others have the defaults of every plan.

        Raises:
            PlanError: Values are out of their range, or do not go together; all of them are named.
        """
        content: dict[str, Any] = dict(values)
        for field in self._rules:
            part, _, key = field.partition(".")
            if part == name and field not in self.reasons and key in model.model_fields:
                default = model.model_fields[key].get_default()
                content[key] = self.resolve(field, Choice(default, "The default of every plan."))
        for field, value in self._overrides.values.items():
            part, _, key = field.partition(".")
            if part == name and key:
                planned = _put(content, key.split("."), value, model=model)
                if field not in self.reasons:
                    self._set_reason(field, planned=planned)
        try:
            return model.model_validate(content)
        except ValidationError as error:
            raise self.explain(error, part=name) from error

    def explain(self, error: ValidationError, *, part: str = "") -> PlanError:
        """Return the error to raise where a plan is not valid."""
        changes = sorted(set(self._overrides.sources.values()))
        within = f" with {', '.join(changes)[:400]}" if changes else ""
        lines = "\n".join(list_errors(error, part=part))
        remedy = "Correct what you set" if changes else "Correct its dataset.json or the descriptions"
        return PlanError(f"dataset {self._fingerprint.dataset_name} cannot be planned{within}. {remedy}:\n{lines}")

    def refuse_unknown_rules(self) -> None:
        """Refuse rules for fields that no rule chooses.

        Raises:
            PlanError: There is one; the nearest field is shown.
        """
        for field in self._rules:
            if field not in self.reasons:
                near = difflib.get_close_matches(field[:200], self.reasons, n=1, cutoff=0)
                raise PlanError(f"rules: no rule can choose {field:.200}. Did you mean {near[0]}?")

    def _ask(self, field: str, planned: Choice[Any]) -> Choice[Any]:
        values = dict(self.values)
        choice = self._rules[field](RuleInput(self._fingerprint, self._device, values, planned))
        if not isinstance(choice, Choice):
            raise PlanError(
                f"the rule for {field} returned a {type(choice).__name__}; expected a Choice. "
                "Return Choice(value, rule)."
            )
        try:
            value = _parse(field, choice.value)
        except ValidationError as error:
            lines = "\n".join(list_errors(error, part=field))
            raise PlanError(
                f"the rule for {field} returned a value that it cannot have. Correct the rule:\n{lines}"
            ) from error
        return Choice(value, choice.rule, choice.facts)

    def _set_reason(self, field: str, *, planned: Any) -> None:
        """Record who set a value, and what the planner would have chosen and why."""
        owner = find_reason(self.reasons, field)
        facts = {"planned": TypeAdapter(Any).dump_python(planned, mode="json")}
        if owner is not None:
            facts["planned_because"] = self.reasons[owner].rule
        source = self._overrides.sources[field]
        self.reasons[field] = Reason(rule=f"{SET_BY} {source}, not by the planner."[:2000], facts=facts)


def _parse(field: str, value: Any) -> Any:
    """Return a value as the field holds it; fields of parts inside lists are returned as they are.

    Raises:
        ValidationError: The field cannot have this value.
    """
    model: Any = Plans
    info: Any = None
    for name in field.split("."):
        info = model.model_fields.get(name) if is_part(model) else None
        if info is None:
            return value
        model = info.annotation
    annotated: Any = Annotated[info.annotation, info]
    return TypeAdapter(annotated).validate_python(value)


def _put(content: dict[str, Any], names: list[str], value: Any, *, model: type[BaseModel]) -> Any:
    """Set a value in nested content, and return what was there, or the default."""
    first, *rest = names
    info = model.model_fields[first]
    before = content.get(first, None if info.is_required() else info.get_default())
    if not rest:
        content[first] = value
        return before
    content[first] = dict(before) if isinstance(before, (Mapping, BaseModel)) else {}
    return _put(content[first], rest, value, model=info.annotation)  # type: ignore[arg-type]
