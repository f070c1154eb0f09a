"""What loading a SavedModel of TensorFlow 2 would run, looked at before it is loaded.

``tf.saved_model.load`` runs, besides restoring variables: the functions that create and initialise resources
(tables) and those that restore single objects. The signatures' functions run with the reference. All other
functions are only defined and are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from optim.errors import UnsupportedModelError
from pipeline.sources.tf.outside_ops import functions_of, refuse_outside_functions

_RUN_AT_LOADING = frozenset({"_create_resource", "_initialize", "_destroy_resource", "initializer"})


def refuse_untrusted(meta_graph: Any, folder: Path, *, allowed: bool) -> None:
    """Refuse a SavedModel that would reach outside when it is loaded or when a signature runs.

    Raises:
        UnsupportedModelError: names op and node, or the asset that lies outside the folder.
    """
    if allowed:
        return
    for asset in meta_graph.asset_file_def:
        _refuse_escape(asset.filename, folder)
    library = functions_of(meta_graph.graph_def)
    roots = [name for name in _functions_run(meta_graph) if name in library]
    refuse_outside_functions(library, roots, allowed=False)


def _refuse_escape(filename: str, folder: Path) -> None:
    inside = PurePosixPath(filename)
    assets = (folder / "assets").resolve()
    target = (folder / "assets" / filename).resolve()
    if inside.is_absolute() or ".." in inside.parts or not target.is_relative_to(assets):
        raise UnsupportedModelError(
            f"asset '{filename}' lies outside the model's assets folder",
            where=str(folder),
            expected="assets below assets/",
        )


def _functions_run(meta_graph: Any) -> Iterator[str]:
    """Names of the functions that loading or a signature runs."""
    objects = meta_graph.object_graph_def
    for index, node in enumerate(objects.nodes):
        for saveable in node.saveable_objects.values():
            yield from _concrete(objects, saveable.restore_function)
        for child in node.children:
            if child.local_name in _RUN_AT_LOADING:
                yield from _concrete(objects, child.node_id)
        if index == 0:
            signatures = [child.node_id for child in node.children if child.local_name == "signatures"]
            for place in signatures:
                for child in objects.nodes[place].children:
                    yield from _concrete(objects, child.node_id)


def _concrete(objects: Any, index: int) -> list[str]:
    """Concrete functions of an object of the graph, if it is a function."""
    if not 0 < index < len(objects.nodes):
        return []
    node = objects.nodes[index]
    kind = node.WhichOneof("kind")
    if kind == "function":
        return list(node.function.concrete_functions)
    if kind == "bare_concrete_function":
        return [node.bare_concrete_function.concrete_function_name]
    return []
