"""Dropout that the user's own ``--freeze`` keeps alive: asked for, so not cut away; random, so refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optim.errors import UnsupportedModelError
from pipeline.sources.tf import dropout
from pipeline.sources.tf.control_flow import settle
from pipeline.sources.tf.dropout import Dropout
from pipeline.sources.tf.graph import GraphDef, ancestors, by_name
from pipeline.sources.tf.random_ops import is_random
from pipeline.sources.tf.switches import freeze_switches, set_placeholder, use_defaults


def refuse_asked_dropout(
    original: GraphDef, frozen: GraphDef, ends: Sequence[str], asked: Mapping[str, str]
) -> None:
    """Refuse what ``--freeze`` makes random: a keep probability below one, or a switch set to training.

    Dropout that would also be at work without ``--freeze`` has a fixed probability and is cut away elsewhere.

    Args:
        original: the graph before anything was frozen.
        frozen: the same graph with the placeholders of ``asked`` set to the user's values.
        ends: the outputs.
        asked: node name → value as text, of the placeholders that the user froze.

    Raises:
        UnsupportedModelError: names op, node, the placeholder, and what to try.
    """
    if not asked:
        return
    active = _active(settle(frozen, list(ends)))
    if not active:
        return
    usual = type(original)()
    usual.CopyFrom(original)
    nodes = by_name(usual)
    for name, value in dropout.inference_values(usual, dropout.find_dropouts(usual)).items():
        set_placeholder(nodes[name], value)
    freeze_switches(usual, list(ends))
    use_defaults(usual, set())
    always = {one.output for one in _active(settle(usual, list(ends)))}
    sources = by_name(original)
    for one in active:
        if one.output not in always:
            needed = ancestors(sources, [one.output]) if one.output in sources else set()
            name = next((name for name in asked if name in needed), next(iter(asked)))
            raise _refusal(frozen, one, name, asked[name])


def _active(settled: GraphDef) -> list[Dropout]:
    """Dropouts whose probability is known and not the one at which nothing is dropped."""
    return [
        one
        for one in dropout.find_dropouts(settled)
        if not one.placeholders and not dropout.drops_nothing(settled, one)
    ]


def _refusal(graph_def: GraphDef, one: Dropout, name: str, value: str) -> UnsupportedModelError:
    nodes = by_name(graph_def)
    scope = [one.output] if one.output in nodes else []
    source = next((n for n in sorted(ancestors(nodes, scope)) if is_random(nodes[n])), "")
    op = nodes[source].op if source else ""
    return UnsupportedModelError(
        f"--freeze {name}={value} keeps the dropout '{one.output}' at work, so that its random op "
        f"{op} decides the outputs",
        op=op,
        node=source or one.output,
        layer=one.output.rpartition("/")[0],
        expected="the same outputs in every run",
        hint=f"leave '{name}' out: dropout is then cut away; or name outputs before it (--outputs)",
    )
