"""The plugin contracts: what authors of defences, attacks, recognisers and datasets need to read.

Plugins are frozen, keyword-only dataclasses. Their fields are the parameters, the schema of their section in
`bench.toml`, the repr, and part of the key under which their results are stored. They hold no learned state: `fit`
returns it, the store keeps it, and the harness passes it back.

Images are float32 RGB in [0, 1], shaped (B, 3, H, W), in every contract; a recogniser does its own pixel normalisation.
The system under attack is the split one of the AdvFace paper (section 3.1):

    images --encode--> features --protect--> template (stored, LEAKS) --embed--> embedding --cosine--> same person?

`bench.contracts.keyed` has the other one: embeddings that are protected under keys, and `keyed_attack` its attacks.
"""

from __future__ import annotations

from bench.contracts.attack import Attack, Leak, LinkageAttack, ReconstructionAttack, ReplayAttack, TraitAttack
from bench.contracts.defense import Defense, State, System
from bench.contracts.faces import Alignment, Dataset, Evaluation, FaceSet, Originals, Pairs
from bench.contracts.keyed import Key, KeyedDefense
from bench.contracts.keyed_attack import (
    CrossmatchAttack,
    Enrol,
    InversionAttack,
    KeyedAttack,
    KeyedService,
    KeyOracle,
    OwnPeople,
    Stolen,
)
from bench.contracts.oracle import Oracle
from bench.contracts.recognizer import Conv, Recognizer, SplitNetwork
from bench.contracts.rng import ImageRng, Rng
from bench.errors import DataError, KnowledgeError, NotApplicable, UserError
from bench.labels import Knowledge

__all__ = [
    "Alignment", "Attack", "Conv", "CrossmatchAttack", "DataError", "Dataset", "Defense", "Enrol", "Evaluation",
    "FaceSet", "ImageRng", "InversionAttack", "Key", "KeyOracle", "KeyedAttack", "KeyedDefense", "KeyedService",
    "Knowledge", "KnowledgeError", "Leak", "LinkageAttack", "NotApplicable", "Oracle", "Originals", "OwnPeople",
    "Pairs", "Recognizer", "ReconstructionAttack", "ReplayAttack", "Rng", "SplitNetwork", "State", "Stolen", "System",
    "TraitAttack", "UserError",
]  # fmt: skip
