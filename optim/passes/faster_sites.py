"""A rewrite that pays only sometimes → the same, at the sites where it was measured to pay.

Allowed: as the rewrite allows; besides, the site cut out of the graph must be measurably faster in its new
form, and the whole graph must not be slower for all its new forms together. Of several forms of one rewrite
the fastest is taken. Numbers: as the rewrite declares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import onnx_ir as ir

from optim.contract import Feeds, Pass, PassInfo, PassOutcome, Refusal, SiteFilter, every_site
from optim.cut_site import Cut, cut, outline
from optim.errors import InternalError
from optim.facts import site_of
from optim.passes.infer_shapes import annotate
from optim.rewrite import Rewrite
from optim.timing import Stopwatch, Timing, signature_of


@dataclass(frozen=True)
class Candidate:
    """A site: the node it ends with, and all nodes, in graph order, that it is timed with."""

    last: ir.Node
    nodes: tuple[ir.Node, ...]

    @property
    def site(self) -> str:
        """Its name."""
        return site_of(self.last)


class SpeedPass(Pass, Protocol):
    """A pass that can say where it would act, so that each place can be timed alone."""

    def candidates(self, model: ir.Model) -> tuple[tuple[Candidate, ...], tuple[Refusal, ...]]:
        """The sites where the rewrite is allowed, and those that look alike and are not, with reasons."""
        ...


@dataclass(frozen=True)
class FasterSites:
    """Applies, site by site, the fastest of several forms of one rewrite, or none.

    Args:
        forms: the same pass with different options; all declare the same name.
        stopwatch: measures; None: nothing is known to be faster, so nothing is rewritten.
    """

    forms: tuple[SpeedPass, ...]
    stopwatch: Stopwatch | None = None

    @property
    def info(self) -> PassInfo:
        return self.forms[0].info

    @property
    def _mark(self) -> str:
        """Key in ``Node.meta`` (never saved): why a node was left. A decision stands, though neighbours that
        were rewritten after it would change what is measured."""
        return f"fairlead.left_by.{self.info.name}"

    def apply(self, model: ir.Model, allowed: SiteFilter = every_site) -> PassOutcome:
        refusals: dict[str, str] = {}
        chosen: dict[int, set[str]] = {}
        offered: dict[str, list[tuple[int, Candidate]]] = {}
        for number, form in enumerate(self.forms):
            candidates, refused = form.candidates(model)
            for one in refused:
                refusals.setdefault(one.site, one.reason)
            for candidate in candidates:
                offered.setdefault(candidate.site, []).append((number, candidate))
        for site, forms in offered.items():
            if not allowed(site):
                continue
            kept = forms[0][1].last.meta.get(self._mark)
            best = kept if isinstance(kept, str) else self._fastest(model, forms)
            if isinstance(best, str):
                refusals[site] = best
            else:
                chosen.setdefault(best, set()).add(site)
        # A trial with part of the sites is about numbers; the speed of the whole was judged before.
        if chosen and allowed is every_site and (slow := self._slower_as_a_whole(model, chosen)):
            refusals |= {site: slow for sites in chosen.values() for site in sites}
            chosen = {}
        for site, forms in offered.items():
            if site in refusals and self.stopwatch is not None:
                forms[0][1].last.meta[self._mark] = refusals[site]
        sites = self._apply_chosen(model, chosen)
        rest = tuple(Refusal(s, r) for s, r in refusals.items() if s not in sites)
        return PassOutcome(sites, rest)

    def _apply_chosen(self, model: ir.Model, chosen: dict[int, set[str]]) -> tuple[str, ...]:
        sites: list[str] = []
        for number, wanted in chosen.items():
            sites += self.forms[number].apply(model, wanted.__contains__).sites
        return tuple(sites)

    def _fastest(self, model: ir.Model, forms: list[tuple[int, Candidate]]) -> int | str:
        """The number of the best form for a site, or why it keeps its own."""
        if self.stopwatch is None:
            return "there is no timer, and the rewrite is used only where it is measured to be faster"
        found: dict[int, Timing] = {}
        for number, candidate in forms:
            piece = cut(model, candidate.nodes)
            if isinstance(piece, str):
                return piece
            form = self.forms[number]
            signature = signature_of(repr(form), outline(piece.model))
            found[number] = self.stopwatch.compare(signature, _both_forms(piece, form))
        best = min(found, key=lambda number: found[number].ratio)
        if not found[best].faster:
            return f"not measured to be faster: {found[best]} of the time it takes as it is"
        return best

    def _slower_as_a_whole(self, model: ir.Model, chosen: dict[int, set[str]]) -> str:
        """Why the forms chosen one by one are no gain together; empty where they are."""
        if self.stopwatch is None:
            return ""
        whole = cut(model, tuple(model.graph))
        if isinstance(whole, str):
            return ""  # each site was timed by itself

        def models() -> tuple[ir.Model, ir.Model, Feeds]:
            after = model.clone()
            self._apply_chosen(after, chosen)
            annotate(after)
            rewritten = cut(after, tuple(after.graph))
            if isinstance(rewritten, str):
                raise InternalError(rewritten)
            return whole.model, rewritten.model, whole.feeds

        choice = repr([(repr(self.forms[number]), sorted(sites)) for number, sites in chosen.items()])
        timing = self.stopwatch.compare(signature_of(choice, outline(whole.model)), models)
        if timing.ratio < 1.0:
            return ""
        return f"faster by itself, but not in the whole graph: {timing} of the time it takes as it is"


def _both_forms(piece: Cut, form: Pass) -> Callable[[], tuple[ir.Model, ir.Model, Feeds]]:
    def models() -> tuple[ir.Model, ir.Model, Feeds]:
        after = piece.model.clone()
        if not form.apply(after).modified:
            raise InternalError(f"{form.info.name} does not rewrite its own site once that is cut out")
        return piece.model, after, piece.feeds

    return models


def candidates_of(
    model: ir.Model, look: Callable[[ir.Node], Candidate | str | None]
) -> tuple[tuple[Candidate, ...], tuple[Refusal, ...]]:
    """Ask ``look`` of each node: the site it ends, why it may not be one, or None."""
    candidates, refusals = [], []
    for node in model.graph:
        found = look(node)
        if isinstance(found, str):
            refusals.append(Refusal(site_of(node), found))
        elif found is not None:
            candidates.append(found)
    return tuple(candidates), tuple(refusals)


def rewrite_candidates(
    form: SpeedPass, model: ir.Model, allowed: SiteFilter, write: Callable[[Rewrite, Candidate], None]
) -> PassOutcome:
    """``apply`` of such a pass: ``write`` at every candidate that is allowed."""
    rw = Rewrite(model, allowed)
    candidates, refusals = form.candidates(model)
    for refusal in refusals:
        rw.refuse(refusal.site, refusal.reason)
    for candidate in candidates:
        if rw.allows(candidate.site):
            rw.done(candidate.site)
            write(rw, candidate)
    return rw.outcome()
