"""Every public docstring says what a caller must know: what is raised, the arguments, the shapes of tensors.

A method that overrides another need not repeat the arguments and shapes that the other's docstring tells. What
Lightning and torch call by name (`on_...`, `setup`, `forward`) has its arguments from them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SAFT = Path(__file__).parents[2] / "saft"
TREES = {file: ast.parse(file.read_text("utf-8")) for file in sorted(SAFT.rglob("*.py"))}
NODES = [(file, node) for file, tree in TREES.items() for node in ast.walk(tree)]
CLASSES = {node.name: node for _, node in NODES if isinstance(node, ast.ClassDef)}
CALLED_BY_OTHERS = re.compile("on_|setup$|forward$")
NOT_TOLD = {"NotImplementedError", "AttributeError", "StopIteration"}
# How a shape is told: [n, rows], `[]`, 0-dim, a scalar, or that it is another tensor's, or any.
SHAPE = re.compile(r"\[|shape|scalar|0-dim")


@dataclass(frozen=True)
class Function:
    """A public function, or a public method of a public class."""

    place: str
    node: ast.FunctionDef
    owner: ast.ClassDef | None

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.node) or ""

    @property
    def inherited(self) -> str:
        """The docstrings of the methods that it overrides."""
        methods = (
            node
            for base in _bases(self.owner)
            for node in base.body
            if isinstance(node, ast.FunctionDef) and node.name == self.node.name
        )
        return "\n".join(ast.get_docstring(method) or "" for method in methods)

    @property
    def arguments(self) -> list[ast.arg]:
        every = self.node.args
        named = [*every.posonlyargs, *every.args, *every.kwonlyargs]
        return [argument for argument in named if argument.arg not in ("self", "cls")]

    @property
    def raised(self) -> set[str]:
        """Names of the exceptions that are raised in its own body."""
        raises = [n.exc for n in _body(self.node) if isinstance(n, ast.Raise) and n.exc is not None]
        called = (error.func if isinstance(error, ast.Call) else error for error in raises)
        return {ast.unparse(error).rpartition(".")[2] for error in called} - NOT_TOLD

    @property
    def has_tensors(self) -> bool:
        annotations = [a.annotation for a in self.arguments if a.annotation] + [self.node.returns]
        return any(re.search(r"\bTensor\b", ast.unparse(a)) for a in annotations if a is not None)


def _bases(owner: ast.ClassDef | None) -> Iterator[ast.ClassDef]:
    for base in owner.bases if owner is not None else ():
        name = ast.unparse(base).partition("[")[0].rpartition(".")[2]
        if name in CLASSES and CLASSES[name] is not owner:
            yield CLASSES[name]
            yield from _bases(CLASSES[name])
            if name == "BoundToModel":  # which is a BoundTask by its methods
                yield CLASSES["BoundTask"]


def _body(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what is in a function, without the functions inside it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            yield child
            yield from _body(child)


def _functions(body: list[ast.stmt], place: str, owner: ast.ClassDef | None = None) -> Iterator[Function]:
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _functions(node.body, f"{place}::{node.name}", node)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
            if "overload" not in decorators and not any(name.endswith(".setter") for name in decorators):
                yield Function(f"{place}::{node.name}", node, owner)


FUNCTIONS = [
    function
    for file, tree in TREES.items()
    for function in _functions(tree.body, str(file.relative_to(SAFT.parent)))
]


def test_what_is_raised_is_told() -> None:
    assert len(FUNCTIONS) > 500
    silent = {f.place: sorted(f.raised) for f in FUNCTIONS if "Raises:" not in f.docstring and f.raised}
    assert not silent


def test_three_arguments_or_more_are_told() -> None:
    assert not [
        f.place
        for f in FUNCTIONS
        if len(f.arguments) > 2
        and "Args:" not in f.docstring + f.inherited
        and not CALLED_BY_OTHERS.match(f.node.name)
    ]


def test_shapes_of_tensors_are_told() -> None:
    assert not [f.place for f in FUNCTIONS if f.has_tensors and not SHAPE.search(f.docstring + f.inherited)]


def test_sections_stand_in_one_order() -> None:
    order = ["Args:", "Attributes:", "Yields:", "Returns:", "Raises:", "Example:", "Source:"]
    for file, node in NODES:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            sections = [line for line in (ast.get_docstring(node) or "").split("\n") if line in order]
            assert sections == sorted(sections, key=order.index), f"{file}:{node.lineno}"


def test_no_variable_is_called_found() -> None:
    """It says that something was looked for, and not what it is."""
    assert not [
        f"{file}:{node.lineno}"
        for file, node in NODES
        if (isinstance(node, ast.Name) and node.id == "found" and isinstance(node.ctx, ast.Store))
        or (isinstance(node, ast.arg) and node.arg == "found")
        or (isinstance(node, ast.Attribute) and node.attr == "found" and isinstance(node.ctx, ast.Store))
    ]
