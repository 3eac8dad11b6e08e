"""Homomorphic encryption: scores are computed on CKKS ciphertexts of embeddings (Boddeti, BTAS 2018; HERS, 2022)."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bench.contracts import Key, KeyedDefense, NotApplicable, Rng

_DEGREE = 8192  #: of the polynomials; half as many numbers fit into a ciphertext
_PRIMES = (60, 40, 40, 60)  #: bits of the moduli: two multiplications; 200 bits of 218 that 128-bit security allows
_SCALE = 2.0**40
_SLOTS = _DEGREE // 2
_BYTES = 335_872  #: of a stored template: compressed ciphertexts have about 331,600, and end in zeros here
_SHOWN = 4096  #: bytes of two ciphertexts under different keys that `score` compares


@dataclass(frozen=True, kw_only=True)
class Ckks(KeyedDefense):
    """Stores the encrypted embedding; the server multiplies it by a plain probe, and a key holder reads the score.

    A ciphertext repeats the embedding in all its slots, so that one product serves as many probes as fit. Rotations add
    up each probe's products, and a product with a mask sets all slots but those of the scores to 0. Without the mask
    (`masked = False`), these contain partial sums, which give the template to whoever decrypts a score; so does
    TenSEAL's own product of a ciphertext with a plain vector.

    The key pair and the randomness of encryption follow from seeds, so that a run can be repeated; a real system must
    draw them. Needs TenSEAL: pip install 'veilbench[encryption]'.
    """

    keeps_scores: ClassVar[bool] = True

    keys: Literal["subject", "record", "system", "pool"] = "system"  #: who holds a key pair
    masked: bool = True  #: whether unused slots of a score's ciphertext are set to 0

    def draw_key(self, rng: Rng, width: int) -> Key:
        """`seed` (8,), from which the key pair is drawn, and `width`.

        Raises:
            NotApplicable: TenSEAL is missing, or embeddings do not fit into a ciphertext.
        """
        _seal()
        if width > _SLOTS:
            raise NotApplicable(f"embeddings of {width} entries do not fit into {_SLOTS} slots")
        seed = torch.randint(2**62, (8,), generator=rng.torch())
        return {"seed": seed, "width": torch.tensor(width)}

    def transform(self, embeddings: Tensor, key: Key) -> Tensor:
        """Ciphertexts (B, 335872), uint8."""
        scheme = _scheme(key)
        return torch.stack([scheme.encrypted(row) for row in embeddings.double().cpu().numpy()])

    def probe(self, embeddings: Tensor, key: Key) -> Tensor:
        """The embeddings (B, D) as they are: the server sees them."""
        return embeddings

    def score(self, stored: Tensor, probes: Tensor) -> Tensor:
        """What can be compared without a key: the share of equal bytes of the beginnings of two ciphertexts."""
        return (stored[:, 64:_SHOWN] == probes[:, 64:_SHOWN]).float().mean(1)

    def compare(self, stored: Tensor, probes: Tensor, key: Key) -> Tensor:
        """Cosines (B,), computed under encryption and then decrypted."""
        scheme, scores = _scheme(key), []
        for template, some in _groups(stored, probes):
            for batch in torch.split(some, scheme.each):  # type: ignore[no-untyped-call]
                if batch.any():
                    slots = scheme.opened(scheme.scored(template, batch, self.masked))
                    scores.append(slots[:: scheme.block][: len(batch)])
                else:  # SEAL refuses products with 0
                    scores.append(np.zeros(len(batch)))
        return torch.from_numpy(np.concatenate(scores)).float()

    def undo(self, templates: Tensor, key: Key) -> Tensor:
        """The decrypted embeddings (B, D), of length 1: another key gives numbers that float32 does not hold."""
        scheme = _scheme(key)
        found = np.stack([scheme.opened(scheme.read(row))[: scheme.width] for row in templates])
        return functional.normalize(torch.from_numpy(found)).float()


def _groups(stored: Tensor, probes: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Each template with the consecutive probes that are compared with it."""
    if stored.stride(0) == 0:  # one template, expanded
        yield stored[0], probes
        return
    first = 0
    for row in range(1, len(stored) + 1):
        if row == len(stored) or not torch.equal(stored[row], stored[first]):
            yield stored[first], probes[first:row]
            first = row


def _seal() -> Any:
    """TenSEAL's binding of SEAL.

    Raises:
        NotApplicable: it is not installed.
    """
    try:
        from tenseal import sealapi
    except ImportError as error:
        raise NotApplicable("ckks needs TenSEAL: pip install 'veilbench[encryption]'") from error
    return sealapi


def _scheme(key: Key) -> Scheme:
    return _made(tuple(key["seed"].tolist()), int(key["width"]))


@lru_cache(maxsize=4)
def _made(seed: tuple[int, ...], width: int) -> Scheme:
    return Scheme(seed, width)


class Scheme:
    """A key pair with what encrypts, multiplies and decrypts under it."""

    def __init__(self, seed: tuple[int, ...], width: int) -> None:
        self.seal, self.seed, self.width = _seal(), seed, width
        self.block = 1 << (width - 1).bit_length()  #: slots of one probe
        self.each = _SLOTS // self.block  #: number of probes in a product
        self.context = self._context()
        self.secret = self.seal.KeyGenerator(self._context("secret")).secret_key()
        self.public = self.seal.PublicKey()
        self.seal.KeyGenerator(self._context("public"), self.secret).create_public_key(self.public)
        self.encoder, self.evaluator = self.seal.CKKSEncoder(self.context), self.seal.Evaluator(self.context)
        self.decryptor = self.seal.Decryptor(self.context, self.secret)

    def _context(self, *purpose: str) -> Any:
        """Parameters, with randomness for one purpose: the same stream must never serve two."""
        parameters = self.seal.EncryptionParameters(self.seal.SCHEME_TYPE.CKKS)
        parameters.set_poly_modulus_degree(_DEGREE)
        parameters.set_coeff_modulus(self.seal.CoeffModulus.Create(_DEGREE, list(_PRIMES)))
        if purpose:
            digest = hashlib.blake2b(repr((self.seed, purpose)).encode(), digest_size=64).digest()
            numbers = np.frombuffer(digest, dtype=np.uint64).tolist()
            parameters.set_random_generator(self.seal.Blake2xbPRNGFactory(numbers))
        return self.seal.SEALContext(parameters, True, self.seal.SEC_LEVEL_TYPE.TC128)

    @cached_property
    def rotations(self) -> Any:
        """The keys with which the server rotates slots."""
        made = self.seal.GaloisKeys()
        self.seal.KeyGenerator(self.context, self.secret).create_galois_keys(made)
        return made

    def encoded(self, slots: Any, like: Any = None) -> Any:
        """A plaintext of numbers (slots,), at the level of a ciphertext if there is one."""
        plain = self.seal.Plaintext()
        where = () if like is None else (like.parms_id(),)
        self.encoder.encode(np.asarray(slots, dtype=np.float64).tolist(), *where, _SCALE, plain)
        return plain

    def _blocks(self, rows: Any) -> Any:
        """Rows (at most `each`, D) in one block of slots each; the rest is 0."""
        slots = np.zeros((self.each, self.block))
        slots[: len(rows), : self.width] = rows
        return slots.ravel()

    def encrypted(self, embedding: Any) -> Tensor:
        """A ciphertext of an embedding (D,), as bytes (335872,)."""
        context = self._context("encryption", embedding.tobytes().hex())
        made = self.seal.Ciphertext()
        self.seal.Encryptor(context, self.public).encrypt(
            self.encoded(self._blocks(np.tile(embedding, (self.each, 1)))), made
        )
        with tempfile.TemporaryDirectory() as folder:  # the binding writes to files only
            path = Path(folder) / "ciphertext"
            made.save(str(path))
            data = path.read_bytes()
        if len(data) > _BYTES:
            raise ValueError(f"a ciphertext has {len(data)} bytes, more than the {_BYTES} of a template")
        return torch.from_numpy(np.frombuffer(data.ljust(_BYTES, b"\0"), dtype=np.uint8).copy())

    def read(self, template: Tensor) -> Any:
        """The ciphertext of a stored template."""
        found = self.seal.Ciphertext()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "ciphertext"
            path.write_bytes(template.cpu().numpy().tobytes())
            found.load(self.context, str(path))
        return found

    def scored(self, template: Tensor, probes: Tensor, masked: bool) -> Any:
        """The ciphertext of a template's products with probes (at most `each`, D), in the first slot of each block."""
        product = self.read(template)
        self.evaluator.multiply_plain_inplace(
            product, self.encoded(self._blocks(probes.double().cpu().numpy()), product)
        )
        self.evaluator.rescale_to_next_inplace(product)
        step = 1
        while step < self.block:
            rotated = self.seal.Ciphertext()
            self.evaluator.rotate_vector(product, step, self.rotations, rotated)
            self.evaluator.add_inplace(product, rotated)
            step *= 2
        if masked:
            mask = np.zeros(_SLOTS)
            mask[:: self.block] = 1
            self.evaluator.multiply_plain_inplace(product, self.encoded(mask, product))
            self.evaluator.rescale_to_next_inplace(product)
        return product

    def opened(self, ciphertext: Any) -> Any:
        """All slots (4096,) as a holder of the secret key sees them."""
        plain = self.seal.Plaintext()
        self.decryptor.decrypt(ciphertext, plain)
        return np.array(self.encoder.decode_double(plain))
