"""The small faults that can be put into a module: one changed node of its syntax tree each.

A mutant is named by what it changes (function, statement, replacement), not by its line, so that its name survives
edits elsewhere in the file and a move of the file.
"""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

_COMPARE: Final[dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_BINARY: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Mutant:
    """`function` is the outermost function (`Class.method`) that holds the change, "" for what runs at import.
    `number` is the change's place in `edits` of the same source."""

    key: str
    path: Path
    number: int
    function: str
    function_line: int
    line: int
    end_line: int
    what: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.function or '<module>'}: {self.before}  =>  {self.after}"


@dataclass
class Edit:
    """A change of a tree that `edits` walked. `apply` changes that tree, once."""

    what: str
    node: ast.AST
    replacement: str
    apply: Callable[[], None] = field(repr=False)


@dataclass(frozen=True)
class _Place:
    """Where the walk is: the outermost function, and the statement that a reader would look at."""

    scope: str = ""
    function: str = ""
    function_line: int = 0
    statement: ast.stmt | None = None


def mutants(path: Path, source: str) -> list[Mutant]:
    """Every mutant of a module."""
    found = []
    seen: Counter[str] = Counter()
    for number, (edit, place) in enumerate(_edits(ast.parse(source))):
        before = _shown(edit.node)
        context = _head(place.statement) if place.statement is not None else ""
        name = "\0".join((place.function, edit.what, context, before, edit.replacement))
        seen[name] += 1
        key = hashlib.sha256(f"{name}\0{seen[name]}".encode()).hexdigest()[:12]
        first, last = _lines(edit.node)
        found.append(
            Mutant(
                key,
                path,
                number,
                place.function,
                place.function_line,
                first,
                last,
                edit.what,
                before,
                edit.replacement,
            )
        )
    return found


def mutated(source: str, number: int) -> ast.Module:
    """The tree of the source with one edit applied."""
    tree = ast.parse(source)
    for at, (edit, _) in enumerate(_edits(tree)):
        if at == number:
            edit.apply()
            return ast.fix_missing_locations(tree)
    raise ValueError(f"the source has no edit {number}")


def _lines(node: ast.AST) -> tuple[int, int]:
    """The lines that a test must reach to notice a change of the node: of a block, those of its test."""
    if isinstance(node, ast.If | ast.While):
        node = node.test
    first = getattr(node, "lineno", 1)
    return first, getattr(node, "end_lineno", None) or first


def _head(statement: ast.stmt) -> str:
    """A statement's first line: of an `if`, its test."""
    return ast.unparse(statement).splitlines()[0]


def _edits(tree: ast.Module) -> Iterator[tuple[Edit, _Place]]:
    yield from _body(tree, _Place())


def _body(node: ast.AST, place: _Place) -> Iterator[tuple[Edit, _Place]]:
    for name, value in list(ast.iter_fields(node)):
        if isinstance(value, list):
            for at, child in enumerate(list(value)):
                if isinstance(child, ast.AST):
                    yield from _visit(child, place, _setter(value, at))
        elif isinstance(value, ast.AST) and name not in {"annotation", "returns"}:
            yield from _visit(value, place, _attribute_setter(node, name))


def _setter(values: list[Any], at: int) -> Callable[[ast.AST], None]:
    def set_(node: ast.AST) -> None:
        values[at] = node

    return set_


def _attribute_setter(owner: ast.AST, name: str) -> Callable[[ast.AST], None]:
    return lambda node: setattr(owner, name, node)


def _visit(node: ast.AST, place: _Place, put: Callable[[ast.AST], None]) -> Iterator[tuple[Edit, _Place]]:
    if _is_skipped(node):
        return
    if isinstance(node, ast.ClassDef):
        inner = _Place(f"{place.scope}{node.name}.") if not place.function else place
        for part in (*node.body,):
            yield from _visit(part, inner, _setter(node.body, node.body.index(part)))
        return
    if isinstance(node, _Function):
        yield from _visit_function(node, place)
        return
    if isinstance(node, ast.stmt):
        place = _Place(place.scope, place.function, place.function_line, node)
    for replacement, what in _replacements(node):
        yield Edit(what, node, _shown(replacement), lambda new=replacement: put(new)), place  # type: ignore[misc]  # bound now
    yield from _body(node, place)


def _visit_function(node: _Function, place: _Place) -> Iterator[tuple[Edit, _Place]]:
    for values in (node.args.defaults, node.args.kw_defaults):
        for at, default in enumerate(values):
            if default is not None:
                yield from _visit(default, place, _setter(values, at))
    inner = place
    if not place.function:
        first = node.decorator_list[0].lineno if node.decorator_list else node.lineno
        inner = _Place(place.scope, f"{place.scope}{node.name}", first)
    for at, statement in enumerate(list(node.body)):
        yield from _visit(statement, inner, _setter(node.body, at))


def _shown(node: ast.AST) -> str:
    """One line for a node: of a block, its head."""
    text = _head(node) if isinstance(node, ast.If | ast.While) else ast.unparse(node)
    return " ".join(text.split())[:160]


def _is_skipped(node: ast.AST) -> bool:
    """What no test of behaviour should hang on: documentation, the texts of logs and errors, types."""
    match node:
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Constant(value=str() as text) if " " in text:  # a sentence for readers
            return True
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="log")) | ast.Name(id="say" | "log_event"))):
            return True
        case ast.Import() | ast.ImportFrom() | ast.Global() | ast.Nonlocal() | ast.JoinedStr():
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Assign(targets=[ast.Name(id=name)]) if name in {"log", "__slots__", "__all__"} or name.startswith(
            "_T"
        ):
            return True
        case ast.AnnAssign(annotation=ast.Name(id="TypeAlias")):
            return True
        case ast.Call(func=ast.Name(id="cast" | "TypeVar" | "Field")):
            return True
    return False


_PASS: Final = ast.Pass()


def _replacements(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    match node:
        case ast.Compare():
            yield from _compare(node)
        case ast.BoolOp():
            other: ast.boolop = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield ast.BoolOp(other, node.values), "and/or"
        case ast.UnaryOp(op=ast.Not()):
            yield node.operand, "not dropped"
        case ast.BinOp() if type(node.op) in _BINARY:
            yield ast.BinOp(node.left, _BINARY[type(node.op)](), node.right), "operator"
        case ast.Constant():
            yield from _constant(node)
        case ast.If() | ast.IfExp():
            for value in (True, False):
                yield _with_test(node, value), f"if {value}"
        case ast.While() if not isinstance(node.test, ast.Constant):
            yield _with_test(node, False), "while False"
        case _:
            yield from _statement(node)


def _compare(node: ast.Compare) -> Iterator[tuple[ast.AST, str]]:
    for at, op in enumerate(node.ops):
        for other in _COMPARE[type(op)]:
            ops = [*node.ops[:at], other(), *node.ops[at + 1 :]]
            yield ast.Compare(node.left, ops, node.comparators), "comparison"


def _constant(node: ast.Constant) -> Iterator[tuple[ast.AST, str]]:
    match node.value:
        case bool() as value:
            yield ast.Constant(not value), "constant"
        case int() | float() as number:
            yield ast.Constant(number + 1 if abs(number) < 10 else number * 10), "constant"
        case str() as text:
            yield ast.Constant(f"XX{text}"), "constant"


def _with_test(node: ast.If | ast.IfExp | ast.While, value: bool) -> ast.AST:
    """The same node with a constant test; the old test is kept in none."""
    if isinstance(node, ast.IfExp):
        return ast.IfExp(ast.Constant(value), node.body, node.orelse)
    made: ast.stmt = type(node)(ast.Constant(value), node.body, node.orelse)
    return made


def _statement(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    match node:
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.AugAssign() | ast.Delete() | ast.Raise():
            yield _PASS, "removed"
        case ast.Assign(targets=targets) if any(isinstance(t, ast.Attribute | ast.Subscript) for t in targets):
            yield _PASS, "removed"
        case ast.Return(value=value) if value is not None and not (isinstance(value, ast.Constant) and not value.value):
            yield ast.Return(ast.Constant(None)), "return None"
        case ast.Break():
            yield ast.Continue(), "break/continue"
        case ast.Continue():
            yield ast.Break(), "break/continue"
