"""An optional signature over a whole bundle: model-signing's ``model.sig``, made and checked with key files.

The manifest shows damage; only a signature shows who made a bundle. The format is that of the OpenSSF model
signing specification (https://github.com/ossf/model-signing-spec), so other tools check it too:
``model_signing verify key BUNDLE --signature BUNDLE/model.sig --public_key KEY``.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from optim.errors import MissingRuntimeError, UserError
from targets.manifest import SIGNATURE_FILE


def sign_folder(folder: Path, private_key: Path) -> None:
    """Write ``model.sig`` over every other file of ``folder``.

    Raises:
        UserError: there is no key at ``private_key``, or it is not an elliptic-curve key in PEM form.
        MissingRuntimeError: model-signing is not installed.
    """
    signing, hashing = _part("signing"), _part("hashing")
    _require_key(private_key, "private")
    signature = folder / SIGNATURE_FILE
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=private_key)
        config.set_hashing_config(_hashing(hashing, signature)).sign(folder, signature)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"the key does not sign: {error}",
            where=str(private_key),
            expected="an unencrypted elliptic-curve key (PEM)",
            hint="openssl ecparam -genkey -name prime256v1 -noout -out key.pem",
        ) from error


def signature_problem(folder: Path, public_key: Path) -> str:
    """Why ``folder`` does not carry the signature of ``public_key``'s owner; empty if it does.

    Raises:
        UserError: there is no key at ``public_key``.
        MissingRuntimeError: model-signing is not installed.
    """
    _require_key(public_key, "public")
    signature = folder / SIGNATURE_FILE
    if signature.is_symlink() or not signature.is_file():
        return f"{SIGNATURE_FILE} is missing: the bundle is not signed"
    verifying, hashing = _part("verifying"), _part("hashing")
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
        config.set_hashing_config(_hashing(hashing, signature)).verify(folder, signature)
    except Exception as error:  # whatever a forged or damaged signature raises is the answer
        return f"{SIGNATURE_FILE} does not hold against {public_key.name}: {error}"
    return ""


def _hashing(hashing: Any, signature: Path) -> Any:
    return hashing.Config().set_ignored_paths(paths=[signature], ignore_git_paths=False)


def _require_key(file: Path, kind: str) -> None:
    if not file.is_file():
        raise UserError(f"there is no {kind} key", where=str(file), expected="a PEM file")


def _part(name: str) -> Any:
    try:
        return importlib.import_module(f"model_signing.{name}")
    except ImportError as error:
        raise MissingRuntimeError(
            f"signatures need model-signing: {error}", hint="pip install 'fairlead[sign]'"
        ) from error
