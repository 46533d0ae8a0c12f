"""What is where in a syntax tree: functions, names, constants, blocks.

Owns: the questions that `message_templates.py` asks of a source.
"""

import ast
from collections.abc import Iterator

Function = ast.FunctionDef | ast.AsyncFunctionDef


def nodes_of(tree: ast.AST, function: Function | None = None) -> Iterator[tuple[Function | None, ast.AST]]:
    """Give every node below another with the function that it stands in."""
    for child in ast.iter_child_nodes(tree):
        inside = child if isinstance(child, Function) else tree if isinstance(tree, Function) else function
        yield (tree if isinstance(tree, Function) else function), child
        yield from nodes_of(child, inside)


def constants_of(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Give the module's constants of plain text and small numbers, by name."""
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str | int | float)
        ):
            yield from (
                (name_of(target), str(node.value.value)) for target in node.targets if name_of(target).isupper()
            )


def parameters_of(function: Function) -> list[str]:
    """Name the parameters of a function."""
    arguments = function.args
    return [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs) if a.arg != "self"]


def name_of(node: ast.AST) -> str:
    """Return a name, or the last part of a dotted one; else nothing."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def assigns(node: ast.AST, name: str) -> bool:
    """Say whether a node gives a name its value."""
    return isinstance(node, ast.Assign) and any(name_of(target) == name for target in node.targets)


def block_of(name: ast.Name, function: Function) -> list[ast.stmt]:
    """Return the innermost list of statements of which one holds a name."""
    block = function.body
    for _, node in nodes_of(function):
        for field in ("body", "orelse", "finalbody"):
            inside = getattr(node, field, None)
            if isinstance(inside, list) and any(name in ast.walk(one) for one in inside):
                block = inside
    return block
