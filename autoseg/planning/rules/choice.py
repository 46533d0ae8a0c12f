"""Defines what a rule returns: a value with the sentence and the facts that led to it.

Owns: `Choice`.
"""

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from autoseg.config.plans import Reason

Value = TypeVar("Value")


@dataclass(frozen=True)
class Choice(Generic[Value]):
    """A chosen value.

    Attributes:
        value: The chosen value.
        rule: The reason, in a sentence or two.
        facts: The facts that the rule used; JSON values.
    """

    value: Value
    rule: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def reason(self) -> Reason:
        """Return the reason as the plan keeps it."""
        return Reason(rule=self.rule, facts=self.facts)
