"""Minimum s-t cut by Dinic's algorithm, without recursion. Dinic, Soviet Math. Doklady 11 (1970) 1277."""

from __future__ import annotations

from collections import deque

SOURCE, SINK = 0, 1


class CutGraph:
    """A directed graph with capacities; vertices 0 and 1 are source and sink."""

    def __init__(self) -> None:
        self._edges: list[list[int]] = [[], []]  # per vertex: indices into head and capacity
        self._head: list[int] = []
        self._capacity: list[int] = []

    def vertex(self) -> int:
        """A new vertex."""
        self._edges.append([])
        return len(self._edges) - 1

    def edge(self, tail: int, head: int, capacity: int) -> None:
        """Cutting ``tail`` (source side) from ``head`` (sink side) costs ``capacity``."""
        if tail == head:
            return
        for a, b, c in ((tail, head, capacity), (head, tail, 0)):
            self._edges[a].append(len(self._head))
            self._head.append(b)
            self._capacity.append(c)

    def source_side(self) -> tuple[int, set[int]]:
        """The value of the minimum cut, and the vertices on the source's side of it (the smallest such
        set).
        """
        total = 0
        while True:
            level = self._levels()
            if SINK not in level:
                return total, set(level)
            total += self._blocking_flow(level)

    def _levels(self) -> dict[int, int]:
        level = {SOURCE: 0}
        queue = deque([SOURCE])
        while queue:
            vertex = queue.popleft()
            for e in self._edges[vertex]:
                head = self._head[e]
                if self._capacity[e] > 0 and head not in level:
                    level[head] = level[vertex] + 1
                    queue.append(head)
        return level

    def _blocking_flow(self, level: dict[int, int]) -> int:
        total = 0
        following = [0] * len(self._edges)
        path: list[int] = []
        vertex = SOURCE
        while True:
            if vertex == SINK:
                flow = min(self._capacity[e] for e in path)
                total += flow
                for e in path:
                    self._capacity[e] -= flow
                    self._capacity[e ^ 1] += flow
                full = next(i for i, e in enumerate(path) if self._capacity[e] == 0)
                vertex = self._head[path[full] ^ 1]
                del path[full:]
                continue
            advanced = False
            edges = self._edges[vertex]
            while following[vertex] < len(edges):
                e = edges[following[vertex]]
                head = self._head[e]
                if self._capacity[e] > 0 and level.get(head) == level[vertex] + 1:
                    path.append(e)
                    vertex = head
                    advanced = True
                    break
                following[vertex] += 1
            if advanced:
                continue
            if not path:
                return total
            vertex = self._head[path.pop() ^ 1]
            following[vertex] += 1
