"""A temporary certificate authority for one run of the stack."""

from __future__ import annotations

from pathlib import Path

import trustme


def certificate_paths(folder: Path) -> tuple[Path, Path]:
    """Paths in ``folder`` of the authority's certificate, and of the server's key and chain."""
    return folder / "ca.pem", folder / "server.pem"


def make_certificates(folder: Path) -> None:
    """Create both for 127.0.0.1 and localhost; the key is readable by its owner only."""
    ca_path, chain_path = certificate_paths(folder)
    authority = trustme.CA(organization_name="MangaAssist local stack")
    authority.cert_pem.write_to_path(str(ca_path))
    server = authority.issue_cert("127.0.0.1", "localhost")
    chain_path.touch(mode=0o600)
    server.private_key_and_cert_chain_pem.write_to_path(str(chain_path))
