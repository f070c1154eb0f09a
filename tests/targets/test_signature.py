"""Signatures: made with a key, checked with its other half, broken by any change."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from optim.errors import MissingRuntimeError, UserError
from targets import signature
from targets.bundle import BundleSpec, verify_bundle, write_bundle
from targets.contract import State
from targets.manifest import SIGNATURE_FILE, entries_for, read_manifest, write_manifest
from targets.onnxruntime import OnnxRuntime
from targets.references import Reference

pytest.importorskip("model_signing", reason="fairlead[sign] is not installed")


def _key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return private, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return _key_pair(tmp_path_factory.mktemp("keys"), "ours")


@pytest.fixture(scope="module")
def signed(
    classifier: Path,
    references: tuple[Reference, ...],
    keys: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("signed") / "bundle"
    spec = BundleSpec("digits", classifier, OnnxRuntime(), references, signing_key=keys[0])
    assert write_bundle(spec, folder).verdict.state is State.VERIFIED
    return folder


@pytest.fixture
def bundle(signed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(signed, tmp_path / "bundle"))


def test_holds_with_its_own_key_and_with_none_asked(signed: Path, keys: tuple[Path, Path]) -> None:
    assert (signed / SIGNATURE_FILE).is_file()
    assert verify_bundle(signed, public_key=keys[1]).state is State.VERIFIED
    assert verify_bundle(signed).state is State.VERIFIED
    done = subprocess.run(
        [sys.executable, str(signed / "verify.py")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_another_key_does_not_hold(signed: Path, tmp_path: Path) -> None:
    _, stranger = _key_pair(tmp_path, "stranger")
    verdict = verify_bundle(signed, public_key=stranger)
    assert verdict.state is State.FAILED
    assert SIGNATURE_FILE in verdict.problems[0]


def test_a_forger_who_rewrites_the_manifest_is_found(bundle: Path, keys: tuple[Path, Path]) -> None:
    (bundle / "README.md").write_text("Trust me.")
    manifest = read_manifest(bundle)
    write_manifest(bundle, manifest.model_copy(update={"files": entries_for(bundle)}))
    assert verify_bundle(bundle).state is State.VERIFIED  # the digests agree again
    assert verify_bundle(bundle, public_key=keys[1]).state is State.FAILED


def test_a_missing_or_damaged_signature_is_found(bundle: Path, keys: tuple[Path, Path]) -> None:
    body = bytearray((bundle / SIGNATURE_FILE).read_bytes())
    body[len(body) // 2] ^= 1
    (bundle / SIGNATURE_FILE).write_bytes(bytes(body))
    assert verify_bundle(bundle, public_key=keys[1]).state is State.FAILED
    (bundle / SIGNATURE_FILE).unlink()
    verdict = verify_bundle(bundle, public_key=keys[1])
    assert verdict.state is State.FAILED
    assert "is not signed" in verdict.problems[0]


def test_wrong_keys_are_the_users_error(
    classifier: Path, references: tuple[Reference, ...], signed: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    spec = BundleSpec("digits", classifier, OnnxRuntime(), references)
    (tmp_path / "no.pem").write_text("not a key")
    for wrong in (tmp_path / "nowhere.pem", tmp_path / "no.pem", keys[1]):
        with pytest.raises(UserError):
            write_bundle(replace(spec, signing_key=wrong), tmp_path / "bundle")
        assert not (tmp_path / "bundle").exists()
    with pytest.raises(UserError, match="no public key"):
        verify_bundle(signed, public_key=tmp_path / "nowhere.pem")


def test_without_the_library_it_is_said(
    signed: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> object:
        raise ImportError(f"no {name}")

    monkeypatch.setattr(signature.importlib, "import_module", absent)
    with pytest.raises(MissingRuntimeError, match="model-signing") as caught:
        verify_bundle(signed, public_key=keys[1])
    assert "fairlead[sign]" in caught.value.hint
