"""Recipes: ordered lists of passes, each line with its reason. The order is the program."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import cast

from optim.catalog import FORMS, PASSES
from optim.contract import Pass
from optim.errors import UserError
from optim.passes.faster_sites import FasterSites
from optim.timing import Stopwatch


@dataclass(frozen=True)
class Line:
    """One pass of a recipe and why it stands where it stands."""

    name: str
    why: str
    stopwatch: Stopwatch | None = None  # what a pass that pays only sometimes is chosen by
    options: Mapping[str, object] = field(default_factory=dict)  # fields of the pass, where not the defaults

    @property
    def measured(self) -> bool:
        """Whether the pass is applied only where it is measured to be faster."""
        return self.name in FORMS

    def make(self) -> Pass:
        """The pass with its options, or the choice among its forms."""
        if self.measured:
            return FasterSites(FORMS[self.name], self.stopwatch)
        return cast("Callable[..., Pass]", PASSES[self.name])(**self.options)


@dataclass(frozen=True)
class Recipe:
    """An ordered list of passes under a name."""

    name: str
    lines: tuple[Line, ...]
    summary: str = ""

    @property
    def measured(self) -> bool:
        """Whether a line of it needs a timer."""
        return any(line.measured for line in self.lines)

    def timed_by(self, stopwatch: Stopwatch) -> Recipe:
        """The same recipe, choosing with this stopwatch."""
        return replace(self, lines=tuple(replace(line, stopwatch=stopwatch) for line in self.lines))


_CLEANUP = (
    Line("inline_functions", "later passes see only operators"),
    Line("lift_constants", "every constant becomes an initializer, which is where all passes look"),
    Line("infer_shapes", "most rewrites need shapes to be allowed"),
    Line("fold_constants", "what never changes is computed once, here"),
    Line("infer_shapes", "folded shape arithmetic makes more shapes known"),
    Line("eliminate_noops", "identities, dropout, casts and reshapes that do nothing"),
    Line("deduplicate_initializers", "equal constants become one value, so that equal nodes can be seen"),
    Line("eliminate_common_subexpressions", "the same thing is computed once"),
    Line("remove_dead_ends", "nodes and weights that reach no output"),
)

_CANONICAL = (
    *_CLEANUP[:6],
    Line(
        "keep_reduced_axes", "squeeze-excite blocks without their reshapes; fewer places where a layout ends"
    ),
    Line("fuse_clips", "one node for a clamp, so that the next patterns are short"),
    Line("fuse_hardswish", "before scale and shift are folded, whose shapes its numbers share"),
    Line(
        "fuse_layer_norm", "one node instead of nine, and its constants are no scale and shift to be folded"
    ),
    Line("fuse_prelu", "one node that every layout passes through"),
    Line("fuse_softmax", "one node instead of five"),
    Line("fuse_gelu", "one node where the operator set has it"),
    Line("fuse_quotients", "one node for a product with a reciprocal"),
    Line("join_slices", "one Split for the slices that part a tensor among them"),
    Line(
        "choose_layout",
        "transposes go where they move the fewest bytes; what stays is listed with its reason",
    ),
    Line("keep_reduced_axes", "reshapes that only a layout kept from their reduction"),
    Line("eliminate_noops", "transposes and reshapes that met"),
    Line("fuse_clips", "clamps and activations that a transpose kept apart"),
    Line("fuse_hardswish", "likewise"),
    Line("dilate_convolutions", "before pads are folded: what pads it stands before the rearrangement"),
    Line("make_padding_explicit", "numbers instead of SAME_UPPER: every target reads them alike"),
    Line("fold_pads", "a Pad node becomes a number in the convolution or pool after it"),
    Line("crop_transposed_convolutions", "a crop becomes padding, and no longer hides what follows"),
    Line("sink_channel_shuffles", "channels in another order are weights in another order"),
    Line("hoist_scales", "scale and shift behind a Concat or Resize, where the next pass can take them"),
    Line("fold_batchnorm", "scale and shift become weights; after the transposes are out of the way"),
    Line("fuse_clips", "clamps that a folded scale kept apart"),
    Line("fuse_gemm", "a dense layer is one node; after its scale and shift are folded"),
    Line("deduplicate_initializers", "equal constants become one value, so that equal nodes can be seen"),
    Line("eliminate_common_subexpressions", "the same thing is computed once"),
    Line("eliminate_noops", "what the rewrites above left behind"),
    Line("sign_pool_borders", "ONNX Runtime takes a zero border for that of the pool, which is -infinity"),
    Line("remove_dead_ends", "nodes and weights that reach no output"),
)

_FAST = (
    *_CANONICAL,
    Line("infer_shapes", "a site can be timed alone only if its shapes are known"),
    Line("lrn_as_convolution", "the normalisation has one slow kernel; its parts have fast ones"),
    Line("affine_as_depthwise", "what no convolution before it could take in becomes one itself"),
    Line("expand_gates", "squeeze-excite blocks stay in the layout of the convolutions around them"),
    Line("infer_shapes", "convolutions that were just made have shapes too"),
    Line("winograd_convolution", "fewer multiplications; last, since it hides the convolution from the rest"),
    Line("deduplicate_initializers", "the transforms are the same constants at every site"),
)

_LAYERED = tuple(line for line in _CANONICAL if line.name not in ("hoist_scales", "fold_batchnorm"))

_EDGE_STATIC = (
    _CANONICAL[0],
    Line("freeze_shapes", "small devices plan their memory ahead: batch 1 unless a shape is given"),
    *_CANONICAL[1:],
)

RECIPES: dict[str, Recipe] = {
    "cleanup": Recipe("cleanup", _CLEANUP, "nothing but dead weight removed; exact up to folded arithmetic"),
    "canonical": Recipe("canonical", _CANONICAL, "the form every target can take (default)"),
    "layered": Recipe(
        "layered", _LAYERED, "canonical with batch norm kept: one node for each layer of the source"
    ),
    "fast": Recipe(
        "fast", _FAST, "canonical, and forms that are faster on this machine, each measured where it stands"
    ),
    "edge_static": Recipe("edge_static", _EDGE_STATIC, "canonical with every shape fixed, for small devices"),
}


def recipe_named(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        UserError: there is none; names the nearest.
    """
    if name not in RECIPES:
        raise UserError(
            f"no recipe named '{name}'",
            where="optimize.recipe",
            expected=f"one of {', '.join(RECIPES)}",
            hint=_nearest(name, list(RECIPES)),
        )
    return RECIPES[name]


def recipe_of(passes: Sequence[str], name: str = "custom") -> Recipe:
    """A user's own ordered list of passes, each a name or, with options, ``name:option=value;option=value``.

    Raises:
        UserError: a pass or an option is unknown, or a value is none the option takes; names the nearest.
    """
    return Recipe(name, tuple(_line(wanted) for wanted in passes))


def _line(text: str) -> Line:
    wanted, _, given = text.partition(":")
    if wanted not in PASSES:
        raise UserError(
            f"no pass named '{wanted}'",
            where="optimize.passes",
            expected="a name from `fairlead passes`",
            hint=_nearest(wanted, list(PASSES)),
        )
    defaults = _options_of(wanted)
    options: dict[str, object] = {}
    for item in given.split(";") if given else ():
        key, equals, value = item.partition("=")
        if key not in defaults or not equals:
            known = ", ".join(f"{k}={v}" for k, v in defaults.items()) or "none"
            raise UserError(
                f"{wanted} has no option '{item}'",
                where="optimize.passes",
                expected=f"of its options (with their defaults): {known}",
                hint=_nearest(key, list(defaults)),
            )
        options[key] = _number(wanted, key, value)
    return Line(wanted, "in the user's list", options=options)


def _options_of(name: str) -> dict[str, int | None]:
    """The whole-number options of a pass and their defaults."""
    example: object = PASSES[name]()
    if name in FORMS or not is_dataclass(example):
        return {}
    values = {f.name: getattr(example, f.name) for f in fields(example)}
    return {k: v for k, v in values.items() if v is None or isinstance(v, int)}


def _number(name: str, key: str, value: str) -> int | None:
    if value == "none":
        return None
    try:
        return int(value)
    except ValueError as error:
        raise UserError(
            f"{name}: {key} is '{value}'", where="optimize.passes", expected="a whole number or none"
        ) from error


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"'{near[0]}'" if near else ""
