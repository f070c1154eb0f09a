"""Ops that reach outside the graph: files, network, Python. A model file is untrusted: none is run unasked.

The scan comes before anything that TensorFlow does with a graph: even importing one evaluates constant parts
of it to infer shapes, and ``ReadFile`` of a constant is such a part. What no output needs is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from optim.errors import UnsupportedModelError
from pipeline.sources.tf.graph import GraphDef, NodeDef, ancestors, by_name, called_functions, data_inputs

FunctionDef: TypeAlias = Any  # tensorflow.core.framework.function_pb2.FunctionDef

_PYTHON = re.compile(r"^(EagerPyFunc|PyFunc|PyFuncStateless|XlaCustomCall(V2)?)$")
_NETWORK = re.compile(
    r"^(RemoteCall|RemoteFusedGraphExecute|Rpc(Call|Client|Server\w*)|_?(Host)?(Send|Recv)|TPUCompile|TPUExecute\w*|"
    r"TPUPartitionedCall|ConfigureDistributedTPU|Collective\w+|DataService\w+|RegisterDataset(V2)?|BigQuery\w+)$"
)
_FILES = re.compile(
    r"^(ReadFile|WriteFile|MatchingFiles|Save(V2|Slices)?|Restore(V2|Slice)?|MergeV2Checkpoints|"
    r"LoadAndRemapMatrix|GenerateVocabRemapping|FileSystemSetConfiguration|RecordInput|DistributedSave|"
    r"(Experimental)?(MatchingFiles|TextLine|TFRecord|FixedLengthRecord|LMDB|CSV|Sql|Snapshot|SnapshotChunk|"
    r"ListSnapshotChunks|Cache|Save|Load)Dataset(V\d)?|(Experimental)?DatasetToTFRecord|Snapshot\w*DatasetReader|"
    r"(WholeFile|TextLine|TFRecord|FixedLengthRecord|LMDB|Identity)Reader(V2)?|ReaderRead(UpTo)?(V2)?|"
    r"Write\w*Summary|CreateSummary\w+Writer|ImportEvent|DebugIdentityV[23]|DebugNumericSummaryV2|DumpTensor|"
    r"CalibrationStatisticsSaver)$"
)
# Attributes that name a file; empty where none is read or written.
_FILE_ATTRIBUTES = ("filename", "vocab_file", "file_pattern", "snapshot_path", "output_file_path")
_TEXT_TABLE = re.compile(r"^InitializeTableFromTextFile(V2)?$")
# Attribute → what may stand in it without reaching out.
_DEBUG_URLS = "debug_urls"
_LOCAL_DESCRIPTORS = ("", "local://", "bytes://")


def refuse_outside(graph_def: GraphDef, outputs: Iterable[str], *, allowed: bool) -> None:
    """Refuse a graph of which ``outputs`` need an op that reaches outside, in functions that it calls too.

    Raises:
        UnsupportedModelError: names op and node.
    """
    if allowed:
        return
    nodes, library = by_name(graph_def), functions_of(graph_def)
    needed = [nodes[name] for name in sorted(ancestors(nodes, outputs))]
    _refuse(needed, "")
    roots = [name for node in needed for name in called_functions(node, library)]
    refuse_outside_functions(library, roots, allowed=False)


def refuse_outside_functions(
    library: Mapping[str, FunctionDef], roots: Iterable[str], *, allowed: bool
) -> None:
    """Refuse functions of ``library`` that ``roots`` are or call. All of a function's nodes are looked at:
    its control outputs run as well.

    Raises:
        UnsupportedModelError: names op and node.
    """
    if allowed:
        return
    for name in _called_by(library, roots):
        _refuse(library[name].node_def, name)


def functions_of(graph_def: GraphDef) -> dict[str, FunctionDef]:
    """The function library by name."""
    return {function.signature.name: function for function in graph_def.library.function}


def _called_by(library: Mapping[str, FunctionDef], roots: Iterable[str]) -> Iterator[str]:
    pending = [name for name in roots if name in library]
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        yield name
        pending += [inner for node in library[name].node_def for inner in called_functions(node, library)]


def _refuse(nodes: Iterable[NodeDef], function: str) -> None:
    names = {node.name: node for node in nodes}
    for node in names.values():
        why = _reaches(node, names, inside=bool(function))
        if why:
            place = f"{function}/{node.name}" if function else node.name
            raise UnsupportedModelError(
                f"op {node.op} {why}; an untrusted model may not",
                op=node.op,
                node=place,
                layer=node.name.rpartition("/")[0],
                expected="a graph that computes its outputs from its inputs and weights only",
                hint="name outputs or inputs that leave it out (--outputs, --inputs), or, only if you "
                "trust the file, --allow-custom-code",
            )


def _reaches(node: NodeDef, nodes: Mapping[str, NodeDef], *, inside: bool) -> str:
    """What an op does outside the graph; empty where nothing."""
    if _PYTHON.match(node.op):
        return "calls Python"
    if _FILES.match(node.op):
        return "reads or writes files"
    if _NETWORK.match(node.op):
        return "talks to other processes"
    if any(node.attr[key].s for key in _FILE_ATTRIBUTES if key in node.attr):
        return "reads or writes files"
    if node.op == "PrintV2" and node.attr["output_stream"].s.startswith(b"file://"):
        return "writes files"
    if node.op.startswith("Debug") and any(node.attr[_DEBUG_URLS].list.s if _DEBUG_URLS in node.attr else ()):
        return "sends tensors to a debugger"
    if node.op in ("DecodeProtoV2", "EncodeProto"):
        source = node.attr["descriptor_source"].s.decode(errors="replace")
        if not any(source == one if not one else source.startswith(one) for one in _LOCAL_DESCRIPTORS):
            return "reads files"
    if _TEXT_TABLE.match(node.op) and not (inside and _given(data_inputs(node)[1], nodes)):
        return "reads a table from a file that is no asset of the model"
    return ""


def _given(tensor: str, nodes: Mapping[str, NodeDef]) -> bool:
    """Whether a function's tensor is one of its arguments, as the loader passes assets."""
    name = tensor.partition(":")[0]
    while name in nodes and nodes[name].op == "Identity":
        name = nodes[name].input[0].partition(":")[0]
    return name not in nodes
