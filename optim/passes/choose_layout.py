"""Transposes pushed to where the fewest bytes are moved; pairs that undo each other vanish.

For one permutation P the graph's tensors come in two layouts, A and B = Transpose(A, P). Ops with a layout
rule may work in either; the others (Conv, graph inputs and outputs, ...) fix theirs. Every tensor that is
made in one layout and read in the other costs one Transpose of its bytes. The assignment with the least
total is a minimum cut between the ops that must work in A and those that must work in B; existing
Transposes count as nothing but edges of that graph. Of equally cheap assignments the one is taken in which
the fewest constants are broadcast in short runs (three channels behind the width, of an image).
Allowed: where the rule allows it, see layout_rules. A Transpose that survives is listed with its reason.
Numbers: reassociates (a reduction may add up in another order). Every region is one site, named after its
first Transpose. https://onnx.ai/onnx/operators/onnx__Transpose.html
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from optim.contract import Numerics, PassInfo, PassOutcome, SiteFilter, every_site
from optim.facts import constant_tensor_of, dims, ints_attribute, is_op, label, opset_of, rank, site_of
from optim.passes.layout_rules import ELEMENTWISE, Perm, Rule, rule_of
from optim.passes.min_cut import SINK, SOURCE, CutGraph
from optim.rewrite import Rewrite, note_sources

# One byte moved weighs more than any number of constants in a slow order, and one of those more than any
# number of ops that change their layout without need.
_BYTE_WEIGHT = 1 << 60
_SHORT_RUN_WEIGHT = 1 << 30
_NEVER = 1 << 120
_SHORT_RUN = 16  # elements; kernels that broadcast over fewer at a time are several times slower


@dataclass(frozen=True)
class ChooseLayout:
    """The cheapest assignment of layouts, one permutation after the other."""

    @property
    def info(self) -> PassInfo:
        return PassInfo(
            "choose_layout",
            Numerics.REASSOCIATES,
            "Transposes moved and cancelled so that the fewest bytes move",
        )

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        rw = Rewrite(model, allowed)
        for perm in _permutations(model):
            seen: set[ir.Node] = set()
            for node in [n for n in model.graph if _transposes(n, perm)]:
                if node in seen or node.graph is None:
                    continue
                region = _Region(perm, opset_of(model))
                region.grow(node)
                seen |= region.transposes
                _settle(rw, region, site_of(node))
        _list_survivors(rw, model)
        return rw.outcome()


def _permutations(model: ir.Model) -> list[Perm]:
    """The permutations in the graph, one of each inverse pair, the most frequent first."""
    counts: Counter[Perm] = Counter()
    for node in model.graph:
        perm = ints_attribute(node, "perm") if is_op(node, "Transpose") else None
        if perm is not None and perm != tuple(sorted(perm)):
            counts[min(perm, _inverse(perm))] += 1
    return sorted(counts, key=lambda p: (-counts[p], p))


def _inverse(perm: Perm) -> Perm:
    return tuple(perm.index(a) for a in range(len(perm)))


def _transposes(node: ir.Node, perm: Perm) -> bool:
    own = ints_attribute(node, "perm") if is_op(node, "Transpose") else None
    return own is not None and own in (perm, _inverse(perm)) and constant_tensor_of(node.inputs[0]) is None


# --- the region ------------------------------------------------------------------------------------


@dataclass
class _Class:
    """One tensor in both layouts: the value that is computed, and those that are its Transpose."""

    root: ir.Value
    kinds: dict[ir.Value, bool] = field(default_factory=dict)  # value → whether it is in layout B


class _Region:
    """What hangs together through Transposes of one permutation and ops that have a layout rule."""

    def __init__(self, perm: Perm, opset: int) -> None:
        self.perm, self.opset = perm, opset
        self.is_b: dict[ir.Value, bool] = {}
        self.rules: dict[ir.Node, tuple[Rule, bool]] = {}  # ops that may flip; whether they work in B now
        self.fixed: set[ir.Node] = set()
        self.transposes: set[ir.Node] = set()
        self.conflict = False

    def flip_perm(self, in_b: bool) -> Perm:
        """The permutation applied to data in that layout to bring it into the other."""
        return _inverse(self.perm) if in_b else self.perm

    def grow(self, first: ir.Node) -> None:
        """Follow Transposes and agile ops from ``first`` in both directions."""
        start = first.inputs[0]
        if start is None or rank(start) not in (None, len(self.perm)):
            return
        self.is_b[start] = ints_attribute(first, "perm") != self.perm
        queue = deque([start])
        while queue:
            value = queue.popleft()
            for node in self._neighbours(value):
                queue.extend(self._visit(node, value))

    @staticmethod
    def _neighbours(value: ir.Value) -> Iterable[ir.Node]:
        producer = value.producer()
        if producer is not None:
            yield producer
        for use in value.uses():
            if use.node.graph is value.graph:
                yield use.node

    def _visit(self, node: ir.Node, value: ir.Value) -> list[ir.Value]:
        """Values that ``node`` ties to ``value`` and that have no layout yet."""
        if node in self.transposes or node in self.fixed or node in self.rules:
            return []
        in_b = self.is_b[value]
        if _transposes(node, self.perm):
            return self._visit_transpose(node)
        rule = rule_of(node, self.flip_perm(in_b), self.opset)
        if rule is None:
            self.fixed.add(node)
            return []
        tied = [node.inputs[i] for i in rule.inputs] + [node.outputs[i] for i in rule.outputs]
        values = [v for v in tied if v is not None]
        if (
            value not in values
            or any(self.is_b.get(v, in_b) != in_b or rank(v) != len(self.perm) for v in values)
            or any(v.graph is not node.graph for v in values)
        ):
            self.fixed.add(node)
            return []
        self.rules[node] = (rule, in_b)
        return self._assign(values, in_b)

    def _visit_transpose(self, node: ir.Node) -> list[ir.Value]:
        source, target = node.inputs[0], node.outputs[0]
        known = self.is_b.get(target)
        if source is None:
            return []
        in_b = self.is_b.get(source, not known)
        agrees = _inverse(self.perm) == self.perm or (ints_attribute(node, "perm") != self.perm) == in_b
        if not agrees or (known is not None and known == in_b) or source.graph is not node.graph:
            self.fixed.add(node)
            return []
        self.transposes.add(node)
        return self._assign([source], in_b) + self._assign([target], not in_b)

    def _assign(self, values: list[ir.Value], in_b: bool) -> list[ir.Value]:
        new = [v for v in dict.fromkeys(values) if v not in self.is_b]
        self.is_b.update(dict.fromkeys(new, in_b))
        return new

    def classes(self) -> list[_Class]:
        """The tensors of the region; a Transpose whose output must be kept as it is stays a fixed op."""
        by_root: dict[ir.Value, _Class] = {}
        outputs: set[tuple[ir.Value, bool]] = set()
        for value in self.is_b:
            path = [value]
            while (node := path[-1].producer()) in self.transposes and node is not None:
                source = node.inputs[0]
                assert source is not None
                path.append(source)
            root = path[-1]
            found = by_root.setdefault(root, _Class(root))
            found.kinds[root] = self.is_b[root]
            found.kinds[value] = self.is_b[value]
            if value is not root and value.is_graph_output():
                key = (root, self.is_b[value])
                if key in outputs or self.is_b[value] == self.is_b[root]:
                    self.conflict = True
                outputs.add(key)
        return list(by_root.values())

    def producer_of(self, value: ir.Value) -> ir.Node | None:
        """The agile op that makes ``value`` in the layout of its choice, or None where the layout is
        fixed.
        """
        node = value.producer()
        if node is None or node not in self.rules or value.is_graph_input():
            return None
        rule = self.rules[node][0]
        return node if value.index() in rule.outputs else None

    def chooser(self, node: ir.Node, position: int) -> ir.Node | None:
        """The agile op that reads input ``position`` in the layout of its choice, or None."""
        return node if node in self.rules and position in self.rules[node][0].inputs else None


# --- the choice ------------------------------------------------------------------------------------


def _bytes_of(value: ir.Value) -> int:
    shape = dims(value) or ()
    size = int(np.prod([d for d in shape if isinstance(d, int)], dtype=np.int64)) if shape else 1
    return max(1, size) * (4 if value.dtype is None else max(1, value.dtype.bitwidth // 8))


def _in_short_runs(node: ir.Node, perm: Perm | None) -> bool:
    """Whether a constant is broadcast along with fewer than ``_SHORT_RUN`` neighbours at a time.

    Args:
        node: only elementwise ops broadcast.
        perm: what its data and constants are transposed by; None: as they are.
    """
    data = dims(node.outputs[0]) if is_op(node, *ELEMENTWISE) else None
    if not data:
        return False
    axes = range(len(data)) if perm is None else perm
    sizes = [size if isinstance(size, int) else None for size in (data[a] for a in axes)]
    for value in node.inputs:
        shape = None if constant_tensor_of(value) is None else dims(value)
        if shape is None or len(shape) > len(data):
            continue
        padded = [1] * (len(data) - len(shape)) + list(shape)
        constant = [padded[a] for a in axes]
        if constant == sizes or all(size == 1 for size in constant):
            continue  # no broadcast, or that of one number
        if _run(constant, sizes) < _SHORT_RUN:
            return True
    return False


def _run(constant: Sequence[object], data: Sequence[int | None]) -> int:
    """Elements in a row over which a constant stays one number, or goes along one by one."""
    run, stays = 1, constant[-1] == 1
    for own, size in zip(reversed(constant), reversed(data), strict=True):
        if size is None:
            return _SHORT_RUN  # taken to be long
        if (own == 1) != stays and size != 1:
            break
        run *= size
    return run


def _readers(region: _Region, tensor: _Class) -> list[tuple[ir.Node | None, bool]]:
    """Who reads a tensor: an agile op, or (None, layout) for a reader that fixes it."""
    found: dict[tuple[ir.Node | None, bool], None] = {}
    for value, in_b in tensor.kinds.items():
        for use in value.uses():
            if use.node in region.transposes:
                continue
            chooser = region.chooser(use.node, use.idx)
            found[(chooser, False if chooser is not None else in_b)] = None
        if value.is_graph_output():
            found[(None, in_b)] = None
    return list(found)


def _choose(region: _Region, classes: list[_Class]) -> tuple[dict[ir.Node, bool], bool]:
    """The layout (True: B) of every agile op, and whether it is cheaper than what is there."""
    cut = CutGraph()
    vertex = {node: cut.vertex() for node in region.rules}
    for node, (_, in_b) in region.rules.items():
        # A change of layout costs a little, so that of two equal choices the present one stays.
        if in_b:
            cut.edge(vertex[node], SINK, 1)
        else:
            cut.edge(SOURCE, vertex[node], 1)
        if _in_short_runs(node, _inverse(region.perm) if in_b else None):
            cut.edge(vertex[node], SINK, _SHORT_RUN_WEIGHT)
        if _in_short_runs(node, None if in_b else region.perm):
            cut.edge(SOURCE, vertex[node], _SHORT_RUN_WEIGHT)
    now = sum(_SHORT_RUN_WEIGHT for node in region.rules if _in_short_runs(node, None))
    for tensor in classes:
        origin = region.producer_of(tensor.root)
        made_in_b = tensor.kinds[tensor.root]
        tail = vertex[origin] if origin is not None else (SINK if made_in_b else SOURCE)
        weight = _bytes_of(tensor.root) * _BYTE_WEIGHT
        readers = _readers(region, tensor)
        heads = {vertex[n] if n is not None else (SINK if b else SOURCE) for n, b in readers}
        kinds_now = {region.rules[n][1] if n is not None else b for n, b in readers}
        now += weight * len(kinds_now - {made_in_b})
        heads.discard(tail)
        if not heads:
            continue
        to_b, to_a = cut.vertex(), cut.vertex()
        cut.edge(tail, to_b, weight)
        cut.edge(to_a, tail, weight)
        for head in heads:
            cut.edge(to_b, head, _NEVER)
            cut.edge(head, to_a, _NEVER)
    total, source_side = cut.source_side()
    choice = {node: vertex[node] not in source_side for node in region.rules}
    flips = sum(choice[n] != in_b for n, (_, in_b) in region.rules.items())
    return choice, flips > 0 and total - flips < now


def _settle(rw: Rewrite, region: _Region, site: str) -> None:
    classes = region.classes()
    if region.conflict:
        rw.refuse(site, "two graph outputs hold the same tensor in the same layout")
        return
    choice, better = _choose(region, classes)
    if not better or not rw.allows(site):
        return
    flipped = [n for n, (_, in_b) in region.rules.items() if choice[n] != in_b]
    order = {node: i for i, node in enumerate(rw.graph)} if len(flipped) > 1 else dict.fromkeys(flipped, 0)
    for node in sorted(flipped, key=order.__getitem__):
        rule, in_b = region.rules[node]
        note_sources(node, (node,))
        rule.flip(rw, node, region.flip_perm(in_b))
    for tensor in classes:
        _rewire(rw, region, tensor, choice)
    for node in region.transposes:
        if not any(v.uses() or v.is_graph_output() for v in node.outputs):
            _detach(node)
    for node in region.transposes:
        if node.graph is not None and all(v is None for v in node.inputs):
            rw.graph.remove(node)
    rw.done(site)


def _detach(node: ir.Node) -> None:
    for i in range(len(node.inputs)):
        node.replace_input_with(i, None)


def _rewire(rw: Rewrite, region: _Region, tensor: _Class, choice: dict[ir.Node, bool]) -> None:
    """Give every reader the tensor in the layout it wants: as it is made, or through one shared Transpose."""
    root, was_b = tensor.root, tensor.kinds[tensor.root]
    origin = region.producer_of(root)
    made_b = choice[origin] if origin is not None else was_b
    wishes: list[tuple[ir.Node, int, bool]] = []
    outputs: list[tuple[ir.Value, bool]] = []
    for value, in_b in tensor.kinds.items():
        for use in tuple(value.uses()):
            if use.node not in region.transposes:
                chooser = region.chooser(use.node, use.idx)
                wishes.append((use.node, use.idx, choice[chooser] if chooser is not None else in_b))
        if value.is_graph_output():
            outputs.append((value, in_b))
    names = _names(tensor)
    old_shape = root.shape
    old = [n for n in (v.producer() for v in tensor.kinds if v is not root) if n is not None]
    wanted = {kind for *_, kind in wishes} | {kind for _, kind in outputs}
    if not (made_b != was_b or len(tensor.kinds) > 1 or wanted - {made_b}):
        return
    types = {kind: (v.type, v.shape) for v, kind in outputs}
    slots = {kind: list(rw.graph.outputs).index(v) for v, kind in outputs}
    for value in tensor.kinds:
        if value is not root:
            value.name = None
    if made_b != was_b:
        root.shape = _permuted_shape(old_shape, region.flip_perm(was_b))
        root.name = names.get(made_b) or rw.fresh(f"{names[was_b]}/{_suffix(made_b)}")
    ready = {made_b: root}
    if (not made_b) in wanted:
        ready[not made_b] = _transposed(rw, region, root, made_b, names.get(not made_b), old)
    for kind, position in slots.items():
        rw.graph.outputs[position] = ready[kind]
        ready[kind].type, ready[kind].shape = types[kind]
    for node, position, kind in wishes:
        node.replace_input_with(position, ready[kind])


def _suffix(in_b: bool) -> str:
    return "permuted" if in_b else "unpermuted"


def _names(tensor: _Class) -> dict[bool, str]:
    """The name each layout of the tensor has in the model, a graph output's first."""
    names: dict[bool, str] = {}
    for value, in_b in tensor.kinds.items():
        if value.name and (in_b not in names or value.is_graph_output() or value is tensor.root):
            names[in_b] = value.name
    for value, in_b in tensor.kinds.items():
        if value.is_graph_output() and value.name:
            names[in_b] = value.name
    return names


def _permuted_shape(shape: ir.Shape | None, perm: Perm) -> ir.Shape | None:
    return None if shape is None else ir.Shape([shape[a] for a in perm])


def _transposed(
    rw: Rewrite, region: _Region, root: ir.Value, made_b: bool, name: str | None, old: list[ir.Node]
) -> ir.Value:
    perm = region.flip_perm(made_b)
    output = ir.Value(
        name=name or rw.fresh(f"{root.name}/{_suffix(not made_b)}"),
        type=root.type,
        shape=_permuted_shape(root.shape, perm),
    )
    node = ir.Node("", "Transpose", [root], [ir.AttrInt64s("perm", perm)], outputs=[output])
    node.name = next((n.name for n in old if n.name), None)
    note_sources(node, old)
    producer = root.producer()
    if producer is not None:
        rw.graph.insert_after(producer, node)
    else:
        rw.graph.insert_before(rw.graph.node(0), node)
    return output


# --- the list --------------------------------------------------------------------------------------


def _list_survivors(rw: Rewrite, model: ir.Model) -> None:
    """Say of every Transpose that is left why it is."""
    for node in model.graph:
        if is_op(node, "Transpose") and rw.allows(site_of(node)):
            source = node.inputs[0]
            before = "a subgraph" if source is None else _end(source)
            readers = sorted({f"{use.node.op_type} '{label(use.node)}'" for use in node.outputs[0].uses()})
            if node.outputs[0].is_graph_output():
                readers.append(f"graph output '{node.outputs[0].name}'")
            rw.refuse(
                site_of(node), f"survives: {before} is in one layout, {', '.join(readers[:3])} in the other"
            )


def _end(value: ir.Value) -> str:
    producer = value.producer()
    if producer is None:
        return f"graph input '{value.name}'" if value.is_graph_input() else f"initializer '{value.name}'"
    return f"{producer.op_type} '{label(producer)}'"
