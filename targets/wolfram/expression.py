"""A reader of the Wolfram Language, as far as the files written here need it: text → expression tree.

It exists so that what was written can be checked by someone who did not write it: the evaluator works from
this tree alone. Precedences are those of the language's operator table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeAlias

from optim.errors import InternalError

Tree: TypeAlias = "Call | Symbol | str | int | float"


@dataclass(frozen=True)
class Symbol:
    """A name."""

    name: str


@dataclass(frozen=True)
class Call:
    """head[arguments]; operators, lists and associations have the language's own full heads."""

    head: Tree
    arguments: tuple[Tree, ...]

    @property
    def name(self) -> str:
        """The head's name; empty where the head is no symbol."""
        return self.head.name if isinstance(self.head, Symbol) else ""


_TOKEN: Final = re.compile(
    r"""(?P<space>\s+)
      | (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<number>(?:\d+\.?\d*|\.\d+)(?:\*\^[+-]?\d+)?)
      | (?P<symbol>[A-Za-z$][A-Za-z0-9$]*)
      | (?P<operator><\||\|>|->|;;|===|<=|>=|==|/@|@@|&&|\|\||<>|[][{}(),;=&\#+\-*/^@.!<>])""",
    re.VERBOSE,
)

# operator: (head, precedence); a higher one binds more tightly.
_INFIX: Final = {
    ";": ("CompoundExpression", 10),
    "=": ("Set", 40),
    "->": ("Rule", 120),
    ";;": ("Span", 305),
    "+": ("Plus", 310),
    "-": ("Subtract", 310),
    "*": ("Times", 400),
    "/": ("Divide", 470),
    "^": ("Power", 590),
}
_RIGHT: Final = frozenset({"=", "->", "^"})
_FUNCTION: Final = 90  # of the postfix &
_MINUS: Final = 480  # of the prefix -
_CLOSING: Final = {"[": "]", "{": "}", "(": ")", "<|": "|>"}


def parse(text: str) -> Tree:
    """The one expression in ``text``.

    Raises:
        InternalError: it does not follow the syntax; names the line.
    """
    reader = _Reader(_tokens(text))
    tree = reader.expression(0)
    if reader.peek() is not None:
        raise reader.wrong("the end")
    return tree


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    line: int


def _tokens(text: str) -> list[_Token]:
    tokens, position, line = [], 0, 1
    while position < len(text):
        if text.startswith("(*", position):
            end = _comment_end(text, position, line)
            line += text.count("\n", position, end)
            position = end
            continue
        found = _TOKEN.match(text, position)
        if found is None:
            raise InternalError(f"{text[position]!r} begins no token", where=f"line {line}")
        if found.lastgroup != "space":
            tokens.append(_Token(found.lastgroup or "", found[0], line))
        line += found[0].count("\n")
        position = found.end()
    return tokens


def _comment_end(text: str, start: int, line: int) -> int:
    depth, position = 1, start + 2
    while depth:
        if position >= len(text):
            raise InternalError("a comment is not closed", where=f"line {line}")
        pair = text[position : position + 2]
        depth += (pair == "(*") - (pair == "*)")
        position += 2 if pair in ("(*", "*)") else 1
    return position


class _Reader:
    """Precedence climbing over the tokens."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._next = 0

    def peek(self) -> str | None:
        return self._tokens[self._next].text if self._next < len(self._tokens) else None

    def wrong(self, expected: str) -> InternalError:
        found = self._tokens[self._next] if self._next < len(self._tokens) else None
        where = f"line {found.line}" if found else "the end"
        return InternalError(f"{found.text if found else 'nothing'!r}", where=where, expected=expected)

    def expression(self, least: int) -> Tree:
        """What binds at least as tightly as ``least``."""
        left = self._prefix()
        while (text := self.peek()) is not None:
            if text == "&" and least <= _FUNCTION:
                self._next += 1
                left = Call(Symbol("Function"), (left,))
                continue
            if text not in _INFIX or _INFIX[text][1] < least:
                break
            head, precedence = _INFIX[text]
            self._next += 1
            if text == ";" and self.peek() in (None, *_CLOSING.values()):
                left = _joined(head, left, Symbol("Null"))
                continue
            right = self.expression(precedence + (text not in _RIGHT))
            left = _joined(head, left, right) if text in ";+*" else Call(Symbol(head), (left, right))
        return left

    def _prefix(self) -> Tree:
        if self.peek() == "-":
            self._next += 1
            inner = self.expression(_MINUS)
            return -inner if isinstance(inner, (int, float)) else Call(Symbol("Minus"), (inner,))
        tree = self._atom()
        while self.peek() == "[":
            tree = Call(tree, self._enclosed())
        return tree

    def _atom(self) -> Tree:
        if self._next >= len(self._tokens):
            raise self.wrong("an expression")
        token = self._tokens[self._next]
        if token.text == "{":
            return Call(Symbol("List"), self._enclosed())
        if token.text == "<|":
            return Call(Symbol("Association"), self._enclosed())
        if token.text == "(":
            inner = self._enclosed()
            if len(inner) != 1:
                raise self.wrong("one expression in parentheses")
            return inner[0]
        self._next += 1
        if token.text == "#":
            return Call(Symbol("Slot"), (1,))
        if token.kind == "string":
            return re.sub(r"\\(.)", r"\1", token.text[1:-1])
        if token.kind == "number":
            return _number(token.text)
        if token.kind == "symbol":
            return Symbol(token.text)
        self._next -= 1
        raise self.wrong("an expression")

    def _enclosed(self) -> tuple[Tree, ...]:
        """The comma-separated expressions between a bracket and its partner."""
        closing = _CLOSING[self.peek() or ""]
        self._next += 1
        found: list[Tree] = []
        while self.peek() != closing:
            if found:
                if self.peek() != ",":
                    raise self.wrong(f"',' or {closing!r}")
                self._next += 1
            found.append(self.expression(0))
        self._next += 1
        return tuple(found)


def _joined(head: str, left: Tree, right: Tree) -> Call:
    """An operator that takes any number of operands."""
    before = left.arguments if isinstance(left, Call) and left.name == head else (left,)
    return Call(Symbol(head), (*before, right))


def _number(text: str) -> int | float:
    mantissa, _, exponent = text.partition("*^")
    if "." in mantissa:
        return float(f"{mantissa}e{exponent or 0}")
    return (
        int(mantissa) * 10 ** int(exponent or 0)
        if not exponent.startswith("-")
        else float(f"{mantissa}e{exponent}")
    )
