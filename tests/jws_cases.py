"""What a verifier of signed tokens must refuse, made from a good token and the key that signed it.

The cases follow what the public vectors of Project Wycheproof test
(json_web_signature_test), written anew for tokens and keys of our own, so that
each verifier of the node meets them with claims that would otherwise be good.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
from collections.abc import Iterator
from typing import Any

import jwt
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def part(content: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def content(text: str) -> bytes:
    """Back from base64url."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def signed(header: bytes, payload: bytes, key: ec.EllipticCurvePrivateKey) -> str:
    """An ES256 token over these very bytes."""
    text = f"{part(header)}.{part(payload)}"
    r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{part(r.to_bytes(32) + s.to_bytes(32))}"


def refused(token: str, key: ec.EllipticCurvePrivateKey) -> Iterator[tuple[str, str]]:
    """Names and tokens. `token` is a good one, signed with `key` by ES256."""
    yield from _of_wrong_form(token)
    yield from _badly_encoded(token)
    yield from _with_another_algorithm(token, key)
    yield from _with_another_signature(token, key)
    yield from _with_another_content(token, key)


def _of_wrong_form(token: str) -> Iterator[tuple[str, str]]:
    header, payload, signature = token.split(".")
    yield "nothing", ""
    yield "no signature", f"{header}.{payload}."
    yield "no signature and separator", f"{header}.{payload}"
    yield "no payload", f"{header}..{signature}"
    yield "no payload and separator", f"{header}.{signature}"
    yield "no header", f".{payload}.{signature}"
    yield "no header and separator", f"{payload}.{signature}"
    yield "no header and signature", f".{payload}."
    yield "the payload alone", payload
    yield "an empty part more", f"{token}."
    yield "a part more", f"{token}.{signature}"
    flattened = {"protected": header, "payload": payload, "signature": signature}
    yield "JSON serialisation, flattened", json.dumps(flattened)
    general = {"payload": payload, "signatures": [{"protected": header, "signature": signature}]}
    yield "JSON serialisation, general", json.dumps(general)


def _badly_encoded(token: str) -> Iterator[tuple[str, str]]:
    parts = token.split(".")
    for number, name in enumerate(("header", "payload", "signature")):
        good = parts[number]
        bad = {
            "a space": f"{good[:3]} {good[3:]}",
            "a line feed": f"{good[:4]}\n{good[4:]}",
            "a line feed at the end": f"{good}\n",
            "a character of no alphabet": f"{good[:5]}!{good[5:]}",
            "a NUL": f"{good[:5]}\0{good[5:]}",
            "a character beyond ASCII": f"{good[:5]}ä{good[5:]}",
            "padding": good + "=" * (-len(good) % 4 or 4),
            "one character too many": good + "A" * (1 if len(good) % 4 != 3 else 2),
        }
        if unused := {2: 4, 3: 2}.get(len(good) % 4):
            alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
            last = alphabet[alphabet.index(good[-1]) | ((1 << unused) - 1)]
            bad["unused bits set"] = good[:-1] + last
        for defect, text in bad.items():
            yield f"{defect} in the {name}", ".".join((*parts[:number], text, *parts[number + 1 :]))


def _with_another_algorithm(token: str, key: ec.EllipticCurvePrivateKey) -> Iterator[tuple[str, str]]:
    header, payload, signature = token.split(".")
    members = json.loads(content(header))

    def under(**changes: Any) -> str:
        return part(json.dumps(members | changes).encode())

    for name in ("none", "None", "NONE", "nOnE", ""):
        yield f"alg {name!r} without a signature", f"{under(alg=name)}.{payload}."
        yield f"alg {name!r} with the signature", f"{under(alg=name)}.{payload}.{signature}"
    for alg in (None, 7, ["ES256"], "es256", "ES384", "ES256K", "RS256", "EdDSA"):
        text = f"{under(alg=alg)}.{payload}"
        r, s = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        yield f"signed rightly, and said to be by {alg!r}", f"{text}.{part(r.to_bytes(32) + s.to_bytes(32))}"
    public, numbers = key.public_key(), key.public_key().public_numbers()
    secrets = {
        "PEM": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "DER": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "point": public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
        "x": numbers.x.to_bytes(32),
        "nothing": b"",
    }
    for name, secret in secrets.items():
        text = f"{under(alg='HS256')}.{payload}"
        mac = hmac.digest(secret, text.encode(), hashlib.sha256)
        yield f"HS256 keyed with the public key ({name})", f"{text}.{part(mac)}"


def _with_another_signature(token: str, key: ec.EllipticCurvePrivateKey) -> Iterator[tuple[str, str]]:
    text, _, last = token.rpartition(".")
    signature = content(last)
    r, s = signature[:32], signature[32:]

    def with_signature(value: bytes) -> str:
        return f"{text}.{part(value)}"

    yield "a bit of r changed", with_signature(bytes([signature[0] ^ 1]) + signature[1:])
    yield "a bit of s changed", with_signature(signature[:-1] + bytes([signature[-1] ^ 1]))
    yield "half a signature", with_signature(r)
    yield "a signature cut short", with_signature(signature[:-1])
    yield "a zero appended", with_signature(signature + b"\0")
    yield "zeros before each half", with_signature(b"\0" + r + b"\0" + s)
    yield "the halves changed over", with_signature(s + r)
    yield "a signature in DER", with_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    value = int.from_bytes(r)
    yield "r + n", with_signature((value + P256_ORDER).to_bytes(33) + b"\0" + s)
    edges = {"0": 0, "1": 1, "n-1": P256_ORDER - 1, "n": P256_ORDER, "2^256-1": (1 << 256) - 1}
    for (left, first), (right, second) in itertools.product(edges.items(), repeat=2):
        yield f"r is {left}, s is {right}", with_signature(first.to_bytes(32) + second.to_bytes(32))
    sha512 = decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA512())))
    yield "signed over another hash", with_signature(sha512[0].to_bytes(32) + sha512[1].to_bytes(32))


def _with_another_content(token: str, key: ec.EllipticCurvePrivateKey) -> Iterator[tuple[str, str]]:
    header, payload, signature = token.split(".")
    members, claims = json.loads(content(header)), json.loads(content(payload))
    yield "another header", f"{part(json.dumps(members | {'x': 1}).encode())}.{payload}.{signature}"
    yield "another payload", f"{header}.{part(json.dumps(claims | {'x': 1}).encode())}.{signature}"

    def again(header: Any = members, payload: Any = claims) -> str:
        texts = [value if isinstance(value, bytes) else json.dumps(value).encode() for value in (header, payload)]
        return signed(texts[0], texts[1], key)

    stranger = ec.generate_private_key(ec.SECP256R1())
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(stranger.public_key()))
    brought = json.dumps(members | {"jwk": jwk, "jku": "https://attacker.example/jwks"}).encode()
    yield "a stranger's key brought along", signed(brought, content(payload), stranger)
    yield "an unknown key", again(header=members | {"kid": "unknown"})
    yield "a key by a path", again(header=members | {"kid": f"../{members['kid']}"})
    yield "no key named", again(header={name: value for name, value in members.items() if name != "kid"})
    others: tuple[Any, ...] = (None, 5, [], {}, "")
    for kid in others:
        yield f"a key named {kid!r}", again(header=members | {"kid": kid})
    yield "a critical extension", again(header=members | {"crit": ["exp"], "exp": 1})
    yield "an empty list of critical extensions", again(header=members | {"crit": []})
    yield "a payload that is not encoded", again(header=members | {"b64": False, "crit": ["b64"]})
    twice = json.dumps(members)[:-1].encode()
    for name, value in (("alg", "ES256"), ("kid", members["kid"]), ("typ", members.get("typ"))):
        yield f"{name} twice", again(header=twice + f', "{name}": {json.dumps(value)}}}'.encode())
    for name, value in claims.items():
        doubled = json.dumps(claims)[:-1] + f', "{name}": {json.dumps(value)}}}'
        yield f"the claim {name} twice", again(payload=doubled.encode())
    yield "a member twice deep down", again(payload=json.dumps(claims)[:-1].encode() + b', "a": [{"b": 1, "b": 2}]}')
    for name, text in {
        "an array": b"[]",
        "a string": b'"x"',
        "null": b"null",
        "no JSON": b"{",
        "nothing": b"",
        "not UTF-8": b'{"a": "\xff"}',
        "NaN": b'{"exp": NaN}',
        "a deep array": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    }.items():
        yield f"a payload that is {name}", again(payload=text)
        if len(text) < 1000:
            yield f"a header that is {name}", again(header=text)


def refused_of_rsa(text: str, key: rsa.RSAPrivateKey) -> Iterator[tuple[str, str]]:
    """Names and tokens whose header and payload (`text`, said to be by PS256) are good and whose signatures are not."""
    data, digest = text.encode(), hashes.SHA256()
    numbers = key.private_numbers()
    n, size = numbers.public_numbers.n, key.key_size // 8

    def pss(hash_: hashes.HashAlgorithm, mgf: hashes.HashAlgorithm, salt: int) -> bytes:
        return key.sign(data, padding.PSS(padding.MGF1(mgf), salt), hash_)

    good = pss(digest, digest, 32)
    yield "by RS256", f"{text}.{part(key.sign(data, padding.PKCS1v15(), digest))}"
    yield "by PS512", f"{text}.{part(pss(hashes.SHA512(), hashes.SHA512(), 64))}"
    yield "with another mask", f"{text}.{part(pss(digest, hashes.SHA384(), 32))}"
    for salt in (0, 20, 31, 33, 64):
        yield f"with a salt of {salt}", f"{text}.{part(pss(digest, digest, salt))}"
    for name, value in {"0": 0, "1": 1, "n-1": n - 1, "n": n}.items():
        yield f"the signature is {name}", f"{text}.{part(value.to_bytes(size))}"
    yield "not reduced", f"{text}.{part((int.from_bytes(good) + n).to_bytes(size + 1))}"
    yield "zeros before", f"{text}.{part(bytes(2) + good)}"
    yield "zeros after", f"{text}.{part(good + bytes(2))}"
    yield "cut short", f"{text}.{part(good[:-1])}"
    for name, encoded in _encoded_badly(data, size):
        value = pow(int.from_bytes(encoded), numbers.d, n)
        yield name, f"{text}.{part(value.to_bytes(size))}"


def _encoded_badly(data: bytes, size: int) -> Iterator[tuple[str, bytes]]:
    """EMSA-PSS (RFC 8017, section 9.1.1) with one thing wrong, before the private key is put to it."""
    salt = bytes(32)

    def encoded(*, hashed: bytes, first: int = 1, trailer: int = 0xBC, top: int = 0) -> bytes:
        seed = hashlib.sha256(bytes(8) + hashed + salt).digest()
        block = bytes(size - 32 - 32 - 2) + bytes([first]) + salt
        mask = b"".join(hashlib.sha256(seed + number.to_bytes(4)).digest() for number in range(size // 32 + 1))
        masked = bytes(a ^ b for a, b in zip(block, mask, strict=False))
        masked = bytes([(masked[0] & 0x7F) | top]) + masked[1:]
        return masked + seed + bytes([trailer])

    right = hashlib.sha256(data).digest()
    assert len(encoded(hashed=right)) == size
    yield "another hash", encoded(hashed=bytes([right[0] ^ 1]) + right[1:])
    yield "the separator changed", encoded(hashed=right, first=2)
    yield "the trailer changed", encoded(hashed=right, trailer=0xCC)
