"""Tokenizers: texts to whole-number codes and back. Fitted on training texts, stored in the model's file as JSON."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from reverie.data.space import TokenKind
from reverie.errors import DataError, InvalidOption, MissingExtra

Codes = NDArray[np.int64]
Texts = Sequence[str] | NDArray[Any]

UNKNOWN = -1
"""The code of a token that the vocabulary lacks."""

_SMILES = re.compile(
    r"\[[^\[\]]+\]"  # an atom in brackets, with its isotope, charge, hydrogens
    r"|Br|Cl|[BCNOPSFI]|[bcnops]|\*"  # the organic subset, aromatic in lower case, any atom
    r"|%\d\d|\d"  # ring closures
    r"|[-=#$:/\\~.()]|>>?"  # bonds, branches, parts, reactions
)


class Tokenizer(ABC):
    """Codes 0 .. size - 1 for the tokens that texts are made of. `encode` and `decode` work on many texts at once, whose
    codes lie one after the other (N,) beside their lengths (n,)."""

    kind: ClassVar[TokenKind]

    @property
    @abstractmethod
    def tokens(self) -> tuple[str, ...]:
        """How each code reads, for messages and pictures."""

    @property
    def size(self) -> int:
        return len(self.tokens)

    @abstractmethod
    def encode(self, texts: Texts) -> tuple[Codes, Codes]:
        """(N,) codes, `UNKNOWN` for what the vocabulary lacks, and the lengths (n,)."""

    @abstractmethod
    def decode(self, codes: Codes, lengths: Codes) -> NDArray[Any]:
        """Object array of the n texts; where a token can be unknown, `UNKNOWN` leaves U+FFFD, the replacement character."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]: ...


class _Spelled(Tokenizer):
    """Tokens that are pieces of the text: decoding puts them side by side."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tuple(tokens)

    @property
    def tokens(self) -> tuple[str, ...]:
        return self._tokens

    def decode(self, codes: Codes, lengths: Codes) -> NDArray[Any]:
        pieces = np.array([*self._tokens, "�"], dtype=object)[np.where(codes < 0, self.size, codes)]
        return _each(pieces, lengths, "".join)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "tokens": list(self._tokens)}


class Characters(_Spelled):
    """One token a Unicode character, in the order of code points."""

    kind = "characters"

    @classmethod
    def fit(cls, texts: Texts, least: int = 1) -> Characters:
        """The characters that occur at least `least` times."""
        points, counts = np.unique(_points("".join(texts)), return_counts=True)
        return cls([chr(point) for point in points[counts >= least]])

    @cached_property
    def _known(self) -> NDArray[np.uint32]:
        return _points("".join(self._tokens))

    def encode(self, texts: Texts) -> tuple[Codes, Codes]:
        points = _points("".join(texts))
        lengths = np.array([len(text) for text in texts], dtype=np.int64)
        if not self.size:
            return np.full(len(points), UNKNOWN), lengths
        codes = np.clip(np.searchsorted(self._known, points), 0, self.size - 1)
        return np.where(self._known[codes] == points, codes, UNKNOWN), lengths


class Smiles(_Spelled):
    """One token an atom, a bond, a branch or a ring closure of a SMILES string (Weininger 1988): `Cl`, `[nH]`, `%12`."""

    kind = "smiles"

    @classmethod
    def fit(cls, texts: Texts, least: int = 1) -> Smiles:
        """The tokens that occur at least `least` times. Raises `DataError` for what is no SMILES string."""
        counts = Counter(token for row, text in enumerate(texts) for token in _atoms(text, row))
        return cls(sorted(token for token, count in counts.items() if count >= least))

    @cached_property
    def _lookup(self) -> dict[str, int]:
        return {token: code for code, token in enumerate(self._tokens)}

    def encode(self, texts: Texts) -> tuple[Codes, Codes]:
        split = [_atoms(text, row) for row, text in enumerate(texts)]
        codes = [self._lookup.get(token, UNKNOWN) for row in split for token in row]
        return np.array(codes, dtype=np.int64), np.array([len(row) for row in split], dtype=np.int64)


class Bytes(Tokenizer):
    """One token a byte of UTF-8: 256 of them, none ever unknown. What is no UTF-8 decodes to U+FFFD."""

    kind = "bytes"

    @property
    def tokens(self) -> tuple[str, ...]:
        return tuple(chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}" for byte in range(256))

    def encode(self, texts: Texts) -> tuple[Codes, Codes]:
        raw = [text.encode("utf-8", "surrogatepass") for text in texts]
        lengths = np.array([len(item) for item in raw], dtype=np.int64)
        return np.frombuffer(b"".join(raw), dtype=np.uint8).astype(np.int64), lengths

    def decode(self, codes: Codes, lengths: Codes) -> NDArray[Any]:
        return _each(codes, lengths, lambda row: row[row >= 0].astype(np.uint8).tobytes().decode("utf-8", "replace"))

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind}


class BytePairs(Tokenizer):
    """Byte-pair encoding over bytes (Sennrich et al. 2016; bytes: Radford et al. 2019), learned from the training texts by
    the package tokenizers: pieces of words, none ever unknown. Raises `MissingExtra` without the package."""

    kind = "bpe"

    def __init__(self, document: str) -> None:
        self._document = document
        self._model = _package().Tokenizer.from_str(document)

    @classmethod
    def fit(cls, texts: Texts, size: int) -> BytePairs:
        """At most `size` tokens, the 256 bytes among them."""
        if size < 256:
            raise InvalidOption(f"vocabulary: byte pairs start from the 256 bytes; {size} is too few")
        package = _package()
        model = package.Tokenizer(package.models.BPE())
        model.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = package.decoders.ByteLevel()
        trainer = package.trainers.BpeTrainer(
            vocab_size=size, show_progress=False, initial_alphabet=sorted(package.pre_tokenizers.ByteLevel.alphabet())
        )
        model.train_from_iterator(list(texts), trainer)
        return cls(model.to_str())

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        return tuple(self._model.id_to_token(code) for code in range(self._model.get_vocab_size()))

    def encode(self, texts: Texts) -> tuple[Codes, Codes]:
        rows = [item.ids for item in self._model.encode_batch(list(texts), add_special_tokens=False)]
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        return np.fromiter((code for row in rows for code in row), dtype=np.int64, count=int(lengths.sum())), lengths

    def decode(self, codes: Codes, lengths: Codes) -> NDArray[Any]:
        return _each(codes, lengths, lambda row: self._model.decode(row[row >= 0].tolist(), skip_special_tokens=False))

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "document": self._document}


def fit_tokenizer(kind: TokenKind, texts: Texts, *, vocabulary: int = 1024, least: int = 1) -> Tokenizer:
    """A tokenizer of that kind. `vocabulary`: tokens that byte pairs may grow to; `least`: times that a character or SMILES
    token must occur to be one."""
    if kind == "characters":
        return Characters.fit(texts, least)
    if kind == "smiles":
        return Smiles.fit(texts, least)
    return Bytes() if kind == "bytes" else BytePairs.fit(texts, vocabulary)


def tokenizer_from_json(data: dict[str, Any]) -> Tokenizer:
    """Inverse of `to_json`."""
    kind = data["kind"]
    if kind == "characters":
        return Characters(data["tokens"])
    if kind == "smiles":
        return Smiles(data["tokens"])
    return Bytes() if kind == "bytes" else BytePairs(data["document"])


def _atoms(text: str, row: int) -> list[str]:
    """The tokens of one SMILES string."""
    found = _SMILES.findall(text)
    if sum(map(len, found)) == len(text):
        return found
    at = 0
    for match in _SMILES.finditer(text):
        if match.start() != at:
            break
        at = match.end()
    raise DataError(
        f"text {row}, character {at}: {text[at]!r} begins no atom, bond or ring of a SMILES string ({text[:60]!r}). "
        "Drop the row, or read the texts as characters"
    )


def _points(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _each(values: NDArray[Any], lengths: Codes, join: Any) -> NDArray[Any]:
    """Object array of what `join` makes of every row of values laid one after the other."""
    out = np.empty(len(lengths), dtype=object)
    ends = np.cumsum(lengths)
    for row, (end, length) in enumerate(zip(ends.tolist(), lengths.tolist(), strict=True)):
        out[row] = join(values[end - length : end])
    return out


def _package() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise MissingExtra("byte pairs need the package tokenizers: pip install reverie[text]") from None
    return tokenizers
