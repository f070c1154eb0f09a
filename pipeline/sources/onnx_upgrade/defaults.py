"""Small changes: a default that moved, an attribute that was renamed, dropped or changed its type."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from pipeline.sources.onnx_upgrade.site import Adapter, Site


def drop_attributes(*names: str) -> Adapter:
    """An adapter that removes attributes which never changed the result."""

    def adapt(site: Site) -> None:
        for name in names:
            site.take(name)

    return adapt


def set_default(name: str, value: float | str, then: Adapter | None = None) -> Adapter:
    """An adapter that spells out the old default of attribute ``name`` where the node does not set it."""

    def adapt(site: Site) -> None:
        if name not in site.node.attributes:
            site.put(**{name: value})
        if then is not None:
            then(site)

    return adapt


def rename(op: str) -> Adapter:
    """An adapter for an operator that only changed its name."""

    def adapt(site: Site) -> None:
        site.become(op)

    return adapt


def rename_attribute(old: str, new: str) -> Adapter:
    """An adapter for a list of integers that only changed its name."""

    def adapt(site: Site) -> None:
        values = site.take_ints(old)
        if values is not None:
            site.put(**{new: list(values)})

    return adapt


def translate(name: str, words: Mapping[str, str]) -> Adapter:
    """An adapter for a text attribute whose words changed."""

    def adapt(site: Site) -> None:
        attribute = site.node.attributes.get(name)
        if attribute is not None:
            word = attribute.as_string()
            site.put(**{name: words.get(word, word)})

    return adapt


def cast_target(site: Site) -> None:
    """Cast-1 → Cast-6: ``to`` went from the type's name to its number."""
    name = site.take_string("to", "FLOAT").upper()
    if name not in ir.DataType.__members__:
        site.refuse(f"{name!r} is no element type")
    site.put(to=int(ir.DataType[name]))


def concat_axis(site: Site) -> None:
    """Concat-1 → Concat-4: the default axis was 1; since 4 it must be given."""
    if "axis" not in site.node.attributes:
        site.put(axis=1)


def fix_direction(site: Site) -> None:
    """GRU-1 → GRU-3: the default direction was spelt "foward"."""
    translate("direction", {"foward": "forward"})(site)


def integer_norm(site: Site) -> None:
    """LpPool-1, GlobalLpPool-1 → 2: ``p`` went from a float to an integer."""
    order = site.take_float("p", 2.0)
    if order != int(order):
        site.refuse(f"p is {order}; since opset 2 it must be a whole number")
    site.put(p=int(order))


def average_pool_ceil(site: Site) -> None:
    """AveragePool-11 → 19: ``ceil_mode`` with ``count_include_pad`` divides the last window anew."""
    ceil, count = (site.node.attributes.get(name) for name in ("ceil_mode", "count_include_pad"))
    if ceil is not None and count is not None and ceil.as_int() and count.as_int():
        site.refuse(
            "ceil_mode with count_include_pad divides its last window by another number since opset 19"
        )
