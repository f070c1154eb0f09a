"""The bundle's bill of materials, CycloneDX 1.6 JSON (ECMA-424): the model, its files, what runs it, what was
put in, and the tools that made it. Equal bundles give equal bytes: its serial number comes from the digests.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from targets.contract import Artefact
from targets.licences import UNKNOWN
from targets.manifest import Manifest, sha256_of

if TYPE_CHECKING:
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression

SBOM_FILE: Final = "sbom.cdx.json"
_NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "urn:fairlead:bundle")


def write_sbom(folder: Path, manifest: Manifest, artefact: Artefact) -> None:
    """Write ``sbom.cdx.json`` for what stands in ``folder``."""
    from cyclonedx.output.json import JsonV1Dot6

    text = JsonV1Dot6(_bill(folder, manifest, artefact)).output_as_string(indent=1)
    (folder / SBOM_FILE).write_text(text + "\n", encoding="utf-8")


def _bill(folder: Path, manifest: Manifest, artefact: Artefact) -> Bom:
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import ComponentType

    others = {name for part in artefact.redistributed for name in part.files}
    digests = {name: sha256_of(folder / name) for name in artefact.files}
    own = {name: digest for name, digest in digests.items() if name not in others}
    model = _component(
        ComponentType.MACHINE_LEARNING_MODEL,
        manifest.name,
        licence=manifest.licences.get("model", UNKNOWN),
        ref="model",
        version="sha256:" + digests[artefact.files[0]],
    )
    files = [
        _component(ComponentType.FILE, name, ref=f"file:{name}", sha256=digest)
        for name, digest in own.items()
    ]
    runtimes = [
        _component(ComponentType.LIBRARY, name, ref=f"runtime:{name}", version=version)
        for name, version in artefact.requires.items()
    ]
    put_in = [
        _component(
            ComponentType.LIBRARY,
            part.name,
            ref=part.purl,
            version=part.version,
            licence=part.licence,
            purl=part.purl,
        )
        for part in artefact.redistributed
    ]
    tools = [
        _component(ComponentType.APPLICATION, name, ref=f"tool:{name}", version=version)
        for name, version in manifest.versions.items()
    ]
    seed = "\n".join(f"{name} {digest}" for name, digest in sorted(digests.items()))
    metadata = BomMetaData(component=model, timestamp=datetime.fromisoformat(manifest.created))
    metadata.tools.components.update(tools)
    bill = Bom(
        serial_number=uuid.uuid5(_NAMESPACE, f"{manifest.created}\n{seed}"),
        components=[*files, *runtimes, *put_in],
        metadata=metadata,
    )
    bill.register_dependency(model, [*files, *runtimes, *put_in])
    return bill


def _component(
    kind: ComponentType,
    name: str,
    *,
    ref: str,
    version: str | None = None,
    licence: str = UNKNOWN,
    purl: str = "",
    sha256: str = "",
) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component
    from packageurl import PackageURL

    licences: Iterable[DisjunctiveLicense | LicenseExpression] = (
        [] if licence == UNKNOWN else [_licence(licence)]
    )
    return Component(
        type=kind,
        name=name,
        bom_ref=ref,
        version=version,
        licenses=licences,
        purl=PackageURL.from_string(purl) if purl else None,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else [],
    )


def _licence(expression: str) -> DisjunctiveLicense | LicenseExpression:
    from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
    from cyclonedx.spdx import is_expression, is_supported_id

    if is_supported_id(expression):
        return DisjunctiveLicense(id=expression)
    return LicenseExpression(expression) if is_expression(expression) else DisjunctiveLicense(name=expression)
