"""What a rule returns: a value with the sentence and the facts that led to it.

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
        value: What was chosen.
        rule: Why, in a sentence or two.
        facts: What the rule looked at; JSON values.
    """

    value: Value
    rule: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def reason(self) -> Reason:
        """Return the reason as the plan keeps it."""
        return Reason(rule=self.rule, facts=self.facts)
