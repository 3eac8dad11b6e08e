"""Derives a seed for every role from names, so that nothing depends on what ran before."""

from __future__ import annotations

import hashlib


def derive_seed(*names: object) -> int:
    """A 63-bit seed from names (strings, numbers): the same names give the same seed on every machine."""
    text = "\x1f".join(map(str, names)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
