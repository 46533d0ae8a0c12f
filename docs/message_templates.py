"""The messages of a package as templates, read from its source without importing it.

Owns: what becomes of an expression that makes a text (`Texts`), and which expressions are messages (`find_messages`).
Does not own: how the catalogue is laid out (`make_error_catalogue.py`).

A message is what an error class of `autoseg/errors.py`, a `Problem` or a warning is made with. Parts that differ from
one case to the next stand as <names>, after the names in the source. A name is followed to where the function gives it
its value, a call to the function that makes the text, and a fault to the sentence that a helper puts it into. Inside a
text, a name or call that can only be whole sentences is followed too: each of them makes a message of its own.
"""

import ast
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from source_nodes import Function, assigns, block_of, constants_of, name_of, nodes_of, parameters_of

WARNING, PROBLEM = "Warning", "Problem"
LISTS_OF_FAULTS, LISTS_OF_WARNINGS = {"faults"}, {"warnings", "messages"}
PLAIN_CALLS = {
    "printable",
    "display_name",
    "str",
    "repr",
    "sorted",
    "list",
    "tuple",
    "min",
    "max",
    "int",
    "float",
    "next",
}
CALLS_OF_VALUES = {"map", "range", "set", "type"}
PLACES_OF_FAULTS = {"fault", "message", "words"}  # parameters of helpers
MOST_FOLLOWED = 3  # functions deep


@dataclass(frozen=True, order=True)
class Message:
    """One message.

    Attributes:
        kind: The error class, or `PROBLEM` or `WARNING`.
        module: Path below the package.
        line: Where it is made; left out of the catalogue, since it moves with every change.
        template: Its words.
    """

    kind: str
    module: str
    line: int
    template: str


def find_messages(package: Path, errors: Mapping[str, Any]) -> list[Message]:
    """Find all messages of a package; `errors` has the names of the error classes."""
    trees = {
        path.relative_to(package).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(package.rglob("*.py"))
    }
    own = {module: dict(constants_of(tree)) for module, tree in trees.items()}
    counts = Counter(name for names in own.values() for name in names)
    shared = {name: value for names in own.values() for name, value in names.items() if counts[name] == 1}
    functions = {node.name: node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, Function)}
    found: set[Message] = set()
    for module, tree in trees.items():
        for function, node in nodes_of(tree):
            for kind, expression in _messages_in(node, errors):
                texts = Texts(functions, shared | own[module], function)
                for template, line in texts.spread(expression, calls_in=tree, line=expression.lineno):
                    if any(part.isalpha() for part in _fixed_words(template)):
                        found.add(Message(kind, module, line, template))
    return sorted(found)


def _fixed_words(template: str) -> str:
    """Return what is left of a template without its <names>: nothing, where a message is another one's."""
    words, depth = [], 0
    for letter in template:
        depth += (letter == "<") - (letter == ">")
        words.append(letter if depth == 0 and letter != ">" else "")
    return "".join(words)


def _messages_in(node: ast.AST, errors: Mapping[str, Any]) -> Iterator[tuple[str, ast.expr]]:
    """Give kind and expression of each message that a node makes."""
    if not isinstance(node, ast.Call) or not node.args:
        return
    name, owner = name_of(node.func), ast.unparse(node.func).rpartition(".")[0]
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if name in errors:
        yield name, node.args[0]
    elif name == "WorkerFailure":
        yield PROBLEM, node.args[0]
    elif name == "Problem" and len(node.args) > 1:
        yield (WARNING if keywords.get("is_error") == "False" else PROBLEM), node.args[1]
    elif name == "warning" and owner == "log":
        yield WARNING, node
    elif name == "append" and owner.rpartition(".")[2] in LISTS_OF_FAULTS | LISTS_OF_WARNINGS:
        yield (PROBLEM if owner.rpartition(".")[2] in LISTS_OF_FAULTS else WARNING), node.args[0]


class Texts:
    """What the texts of one function can be."""

    def __init__(
        self, functions: Mapping[str, Function], constants: Mapping[str, str], function: Function | None
    ) -> None:
        """Take all functions and constants of the package by name, and the function at hand."""
        self.functions, self.constants, self.function = functions, constants, function

    def spread(self, expression: ast.expr, *, calls_in: ast.AST, line: int) -> Iterator[tuple[str, int]]:
        """Give the templates of a message; where a helper makes it of a fault, one for each call of the helper."""
        parameters = parameters_of(self.function) if self.function is not None else []
        mentioned = {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}
        places = [name for name in parameters if name in mentioned & PLACES_OF_FAULTS]
        if not places or self.function is None:
            yield from ((template, line) for template in self.templates(expression))
            return
        for caller, node in nodes_of(calls_in):
            if isinstance(node, ast.Call) and name_of(node.func) == self.function.name:
                given = dict(zip(parameters, node.args, strict=False)) | {
                    k.arg: k.value for k in node.keywords if k.arg
                }
                there = Texts(self.functions, self.constants, caller)
                for fault in there.templates(given[places[0]]) if places[0] in given else []:
                    for template in self.templates(expression):
                        yield template.replace(f"<{places[0]}>", fault), node.lineno

    def templates(self, node: ast.expr, *, depth: int = 0) -> list[str]:
        """Give all that a text can be; at least one."""
        match node:
            case ast.Constant(value=str(text)):
                return [text]
            case ast.JoinedStr():
                return ["".join(p) for p in itertools.product(*(self._parts(v, depth=depth) for v in node.values))]
            case ast.BinOp(op=ast.Add()):
                both = (self.templates(part, depth=depth) for part in (node.left, node.right))
                return [left + right for left, right in itertools.product(*both)]
            case ast.IfExp():
                return [text for part in (node.body, node.orelse) for text in self.templates(part, depth=depth)]
            case ast.Name() if depth < MOST_FOLLOWED and (values := self._assigned(node)):
                return [text for value in values for text in self.templates(value, depth=depth + 1)]
            case ast.Call() if name_of(node.func) == "warning":
                return [
                    _with_arguments(text, [self._place(a) for a in node.args[1:]])
                    for text in self.templates(node.args[0])
                ]
            case ast.Call() if depth < MOST_FOLLOWED and (made := self._made_by(node, depth=depth)):
                return made
        return [_shown(self._place(node))]

    def _made_by(self, node: ast.Call, *, depth: int) -> list[str]:
        """Give what a function of the package returns, if that is texts."""
        function = self.functions.get(name_of(node.func))
        if function is None or function.name in PLAIN_CALLS or function.returns is None:
            return []
        if ast.unparse(function.returns) not in ("str", "str | None"):
            return []
        inside = Texts(self.functions, self.constants, function)
        returned = [n.value for f, n in nodes_of(function) if isinstance(n, ast.Return) and n.value is not None]
        texts = [text for value in returned for text in inside.templates(value, depth=depth + 1)]
        return [text for text in texts if text and text != "<None>"]

    def _assigned(self, name: ast.Name) -> list[ast.expr]:
        """Give what a name can stand for: its last value in the same block, or all of the function's."""
        if self.function is None:
            return []
        everywhere = [node for _, node in nodes_of(self.function) if assigns(node, name.id)]
        block = block_of(name, self.function)
        here = [node for node in block if assigns(node, name.id) and node.lineno < name.lineno]
        kinds = (ast.JoinedStr, ast.Constant, ast.BinOp, ast.IfExp, ast.Call)
        return [
            node.value
            for node in here[-1:] or everywhere
            if isinstance(node, ast.Assign) and isinstance(node.value, kinds)
        ]

    def _parts(self, value: ast.expr, *, depth: int) -> list[str]:
        """Give all that a part of an f-string can be where that is whole sentences, or else what stands for it."""
        inside = value.value if isinstance(value, ast.FormattedValue) else None
        if isinstance(inside, ast.Name | ast.Call):
            texts = self.templates(inside, depth=depth)
            if all(text.endswith(".") for text in texts):
                return texts
        return [self._part(value)]

    def _part(self, value: ast.expr) -> str:
        """Give a part of an f-string."""
        if isinstance(value, ast.Constant):
            return str(value.value)
        assert isinstance(value, ast.FormattedValue)
        inner = value.value
        if isinstance(inner, ast.Call) and (made := self._made_by(inner, depth=1)):
            return made[0] if len(made) == 1 else _shown(self._place(inner))
        if isinstance(inner, ast.IfExp) and all(isinstance(n, ast.Constant) for n in (inner.body, inner.orelse)):
            words = [str(n.value) for n in (inner.body, inner.orelse) if isinstance(n, ast.Constant) and n.value]
            return f"[{' / '.join(words)}]"
        place = self._place(inner)
        return self.constants.get(place, _shown(place))

    def _place(self, node: ast.AST) -> str:
        """Name what stands for a value: the last name that says what it is."""
        match node:
            case ast.Name() | ast.Attribute():
                name = name_of(node)
                owner = self._place(node.value) if isinstance(node, ast.Attribute) else ""
                if name == "__name__":
                    return f"type of {owner}"
                return f"{owner} {name}" if name in ("name", "kind", "model", "shape", "dtype") and owner else name
            case ast.Constant():
                return str(node.value)
            case ast.Call(func=ast.Attribute(attr="join")) if node.args:
                return f"{self._place(node.args[0])}, .."
            case ast.Call() if name_of(node.func) == "len":
                return f"number of {self._place(node.args[0])}" if node.args else "number"
            case ast.Call(func=ast.Name()) if node.args and name_of(node.func) in PLAIN_CALLS | CALLS_OF_VALUES:
                return self._place(node.args[-1])
            case ast.Call(func=ast.Attribute(value=owner)):
                return self._place(owner)
            case ast.Call():
                return name_of(node.func).strip("_")
            case ast.Subscript() | ast.Starred():
                return self._place(node.value)
            case ast.BinOp():
                return next((p for p in map(self._place, (node.left, node.right)) if not p.isdigit()), "number")
            case ast.GeneratorExp() | ast.ListComp():
                return self._place(node.elt)
            case ast.BoolOp() | ast.IfExp():
                return self._place(node.values[0] if isinstance(node, ast.BoolOp) else node.body)
        return "value"


def _shown(place: str) -> str:
    """Show what stands for a value."""
    words = place.replace("_", " ").split()
    return f"<{' '.join(word.lower() if word.isupper() and len(word) > 3 else word for word in words)}>"


def _with_arguments(text: str, places: list[str]) -> str:
    """Put the names of a log message's arguments in the place of %s and %d."""
    parts = text.replace("%%", "%").replace("%d", "%s").replace("%r", "%s").replace("%.0f", "%s").split("%s")
    named = [_shown(place) for place in places[: len(parts) - 1]]
    return "".join(itertools.chain.from_iterable(itertools.zip_longest(parts, named, fillvalue="")))
