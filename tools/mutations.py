"""The places of a file where a mutant can be made, for mutate.py: what stands there, what shall, and which lines to watch."""

from __future__ import annotations

import ast
import collections
import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SWAPPED: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div, ast.Add),
    ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Div, ast.Mult),
    ast.Mod: (ast.Mult,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
    ast.Lt: (ast.LtE, ast.GtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.Gt, ast.GtE),
    ast.Gt: (ast.GtE, ast.LtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.Lt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
NUMBERS = ("Tensor", "int", "float", "np.ndarray", "Array")


@dataclass(frozen=True)
class Site:
    """One mutant: bytes `begin` to `end` of `file` become `after`."""

    file: Path
    room: str
    kind: str
    line: int
    column: int
    begin: int
    end: int
    before: str
    after: str
    watch: tuple[frozenset[int], ...]
    """Lines whose tests are asked: the first of these sets that any test runs."""
    imported: bool
    """Runs when its module is imported, and then no more."""

    def applied(self) -> bytes:
        text = self.file.read_bytes()
        return text[: self.begin] + self.after.encode() + text[self.end :]

    def told(self, root: Path) -> dict[str, Any]:
        place = f"{self.file.relative_to(root)}:{self.line}:{self.column}"
        one_line = " ".join(self.before.split())
        source = self.file.read_text().splitlines()[self.line - 1].strip()
        facts = {"room": self.room, "kind": self.kind, "line": self.line, "before": one_line, "after": self.after}
        return {"mutant": f"{place} {one_line} -> {self.after}", **facts, "source": source}


def sites(file: Path, package: Path) -> list[Site]:
    """Every place of a file, with one mutant each; which of several is drawn by the place alone."""
    text = file.read_bytes()
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    tree = ast.parse(text)
    bodies = frozenset().union(*(_body(node) for node in ast.walk(tree) if _is_function(node)), frozenset[int]())
    room = str(file.parent.relative_to(package))
    found = []
    for node, kind, options, scope in _places(tree, []):
        begin, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        before = text[begin:end].decode()
        after = random.Random(f"{file.name} {node.lineno} {node.col_offset} {before}").choice(options)
        watch, imported = _watched(node, scope, bodies)
        found.append(Site(file, room, kind, node.lineno, node.col_offset, begin, end, before, after, watch, imported))
    return found


def draw(package: Path, count: int, seed: int) -> list[Site]:
    """`count` mutants, each room by its number of places and at least one; a longer draw begins with the shorter one's."""
    rooms: dict[str, list[Site]] = collections.defaultdict(list)
    for file in sorted(package.rglob("*.py")):
        rooms[str(file.parent.relative_to(package))] += sites(file, package)
    total = sum(map(len, rooms.values()))
    drawn = []
    for room, places in sorted(rooms.items()):
        order = random.Random(f"{seed} {room}").sample(places, len(places))
        # Rooms take turns: place i of n in the order of a room comes at the share i / n of the whole.
        drawn += [((i + 0.5) / len(places) if i else 0.0, site) for i, site in enumerate(order)]
    drawn.sort(key=lambda pair: pair[0])
    print(f"{total} places in {len(rooms)} rooms")
    return [site for _, site in drawn[:count]]


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def _body(function: Any) -> frozenset[int]:
    return frozenset(range(function.body[0].lineno, function.end_lineno + 1))


def _watched(node: Any, scope: list[Any], file: frozenset[int]) -> tuple[tuple[frozenset[int], ...], bool]:
    """The lines that show whether a node ran, and whether it does so at import only."""
    functions = [s for s in scope if _is_function(s)]
    if any(node.lineno >= s.body[0].lineno for s in functions):
        whole = scope[-1]
        body = getattr(whole, "body", None)
        last = body[0].lineno - 1 if isinstance(body, list) else whole.end_lineno
        statement = frozenset(range(whole.lineno, max(last, whole.lineno) + 1))
        return (frozenset({node.lineno}), frozenset(range(node.lineno, node.end_lineno + 1)), statement), False
    wider = [_body(s) for s in functions[-1:]]  # a default in a signature
    for around in [s for s in scope if isinstance(s, ast.ClassDef)][-1:]:
        wider.append(frozenset().union(*(_body(f) for f in ast.walk(around) if _is_function(f)), frozenset[int]()))
    return (*wider, file), not functions


def _places(node: ast.AST, scope: list[ast.AST]) -> Iterator[tuple[Any, str, list[str], list[ast.AST]]]:
    """Nodes with their kind, what may stand there instead, and the functions, classes and statement around them."""
    if isinstance(node, ast.JoinedStr | ast.Raise | ast.match_case | ast.Import | ast.ImportFrom):
        if isinstance(node, ast.match_case):
            for inner in node.body:
                yield from _places(inner, scope)
        return
    if (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)) or _is_main(node):
        return
    scope = [*scope, node] if isinstance(node, ast.stmt) else scope
    for place, kind, options in _mutants(node, scope):
        yield place, kind, options, scope
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "type_params", "decorator_list", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _places(child, scope)


def _is_main(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


def _mutants(node: Any, scope: list[ast.AST]) -> Iterator[tuple[Any, str, list[str]]]:
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in SWAPPED and not _of_texts(node):
        yield node, "arithmetic", [_with(node, op=op()) for op in SWAPPED[type(node.op)]]
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
        words = any(isinstance(n, ast.Constant) and isinstance(n.value, str) for n in ast.walk(node))
        swapped = [_with(node, ops=[op(), *node.ops[1:]]) for op in SWAPPED[type(node.ops[0])]]
        yield node, "string comparison" if words else "comparison", swapped
    elif isinstance(node, ast.BoolOp):
        yield node, "and/or", [_with(node, op=SWAPPED[type(node.op)][0]())]
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        if not isinstance(scope[-1], ast.Return) or scope[-1].value is not node:
            yield node, "boolean", [str(not node.value)]
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        value = node.value
        yield node, "number", [repr(value + 1), repr(value - 1)] if isinstance(value, int) else [repr(value * 2 or 1.0)]
    if isinstance(node, ast.If | ast.IfExp) and not isinstance(node.test, ast.Compare):
        yield node.test, "condition", [_negated(node.test)]
    elif isinstance(node, ast.comprehension):
        for test in node.ifs:
            if not isinstance(test, ast.Compare):
                yield test, "condition", [_negated(test)]
    elif isinstance(node, ast.Return) and node.value is not None and ast.unparse(node.value) != "None":
        yield node.value, "return", _returned(node.value, scope)


def _negated(test: ast.expr) -> str:
    return f"({ast.unparse(ast.UnaryOp(ast.Not(), test))})"


def _returned(value: ast.expr, scope: list[ast.AST]) -> list[str]:
    text = ast.unparse(value)
    functions = [s for s in scope if _is_function(s)]
    kind = ast.unparse(functions[-1].returns) if functions and functions[-1].returns else ""  # type: ignore[attr-defined]
    if kind == "bool":
        return [_negated(value)]
    return [f"(-({text}))", f"(({text}) + 1)"] if kind in NUMBERS else ["None"]


def _of_texts(node: Any) -> bool:
    """Whether a sum or a remainder is of strings, which no other operator knows."""
    parts = [n for n in ast.walk(node) if isinstance(n, ast.JoinedStr) or isinstance(getattr(n, "value", None), str)]
    return isinstance(node.op, ast.Add | ast.Mod | ast.Mult) and bool(parts)


def _with(node: Any, **fields: Any) -> str:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    text = ast.unparse(changed)
    return text if isinstance(node, ast.stmt) else f"({text})"
