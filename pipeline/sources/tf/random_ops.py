"""Random ops: none may be left in an inference graph."""

from __future__ import annotations

from optim.errors import UnsupportedModelError
from pipeline.sources.tf.graph import GraphDef, NodeDef, ancestors, by_name

RANDOM_OPS = frozenset(
    {
        "RandomUniform", "RandomUniformInt", "RandomStandardNormal", "ParameterizedTruncatedNormal",
        "TruncatedNormal", "RandomGamma", "RandomPoisson", "RandomPoissonV2", "RandomShuffle", "Multinomial",
        "StatelessRandomUniform", "StatelessRandomUniformV2", "StatelessRandomUniformInt",
        "StatelessRandomUniformIntV2", "StatelessRandomNormal", "StatelessRandomNormalV2",
        "StatelessTruncatedNormal", "StatelessTruncatedNormalV2", "StatelessMultinomial", "RandomCrop",
        "StatefulUniform", "StatefulStandardNormalV2", "StatefulTruncatedNormal", "StatefulUniformInt",
        "StatefulUniformFullInt", "FixedUnigramCandidateSampler", "LogUniformCandidateSampler",
        "UniformCandidateSampler",
    }
)  # fmt: skip


def is_random(node: NodeDef) -> bool:
    """Whether two runs of this node may differ."""
    return node.op in RANDOM_OPS


def refuse_random(graph_def: GraphDef, outputs: list[str]) -> None:
    """Refuse a graph whose outputs depend on a random op.

    Raises:
        UnsupportedModelError: names op, node and layer.
    """
    nodes = by_name(graph_def)
    for name in sorted(ancestors(nodes, outputs)):
        if is_random(nodes[name]):
            scope = name.rpartition("/")[0]
            raise UnsupportedModelError(
                f"the outputs depend on the random op {nodes[name].op}",
                op=nodes[name].op,
                node=name,
                layer=scope,
                expected="the same outputs in every run",
                hint="freeze the switch that turns it off (--freeze NAME=VALUE), or name outputs before it "
                "(--outputs)",
            )
