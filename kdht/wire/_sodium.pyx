# cython: language_level=3, boundscheck=False, wraparound=False
# distutils: libraries = sodium
"""Ed25519 and XChaCha20-Poly1305, from libsodium. Layer 0; no I/O; the GIL is free while it works.

Built only where libsodium's headers are; `kdht.wire.sodium` says so where it is missing. Nothing loads this
module before the first signed record or sealed value: most nodes and clients never need it.
"""

from libc.stdint cimport uint8_t


cdef extern from "<sodium.h>" nogil:
    enum:
        crypto_sign_BYTES
        crypto_sign_PUBLICKEYBYTES
        crypto_sign_SECRETKEYBYTES
        crypto_sign_SEEDBYTES
        crypto_aead_xchacha20poly1305_ietf_KEYBYTES
        crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
        crypto_aead_xchacha20poly1305_ietf_ABYTES
    int sodium_init()
    void sodium_memzero(void *at, size_t length)
    int crypto_sign_seed_keypair(uint8_t *public, uint8_t *secret, const uint8_t *seed)
    int crypto_sign_detached(
        uint8_t *signature, unsigned long long *length, const uint8_t *message, unsigned long long size,
        const uint8_t *secret)
    int crypto_sign_verify_detached(
        const uint8_t *signature, const uint8_t *message, unsigned long long size, const uint8_t *public)
    int crypto_aead_xchacha20poly1305_ietf_encrypt(
        uint8_t *sealed, unsigned long long *length, const uint8_t *plain, unsigned long long size,
        const uint8_t *bound, unsigned long long bound_size, const uint8_t *none, const uint8_t *nonce,
        const uint8_t *key)
    int crypto_aead_xchacha20poly1305_ietf_decrypt(
        uint8_t *plain, unsigned long long *length, uint8_t *none, const uint8_t *sealed,
        unsigned long long size, const uint8_t *bound, unsigned long long bound_size, const uint8_t *nonce,
        const uint8_t *key)


if sodium_init() < 0:
    raise ImportError("libsodium cannot start")

SEED_LEN = crypto_sign_SEEDBYTES
SEAL_KEY_LEN = crypto_aead_xchacha20poly1305_ietf_KEYBYTES
NONCE_LEN = crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
SEAL_TAG_LEN = crypto_aead_xchacha20poly1305_ietf_ABYTES


cdef int check(what, bytes data, Py_ssize_t length) except -1:
    """C reads so many bytes, whatever comes."""
    if len(data) != length:
        raise ValueError(f"{what} has {length} bytes, not {len(data)}")
    return 0


def public_key(seed: bytes) -> bytes:
    """The public key of a 32-byte seed (RFC 8032)."""
    cdef uint8_t public[crypto_sign_PUBLICKEYBYTES]
    cdef uint8_t secret[crypto_sign_SECRETKEYBYTES]
    check("a seed", seed, crypto_sign_SEEDBYTES)
    crypto_sign_seed_keypair(public, secret, seed)
    sodium_memzero(secret, sizeof(secret))
    return public[:crypto_sign_PUBLICKEYBYTES]


def sign(seed: bytes, message: bytes) -> bytes:
    """The 64-byte signature of `message`."""
    cdef uint8_t public[crypto_sign_PUBLICKEYBYTES]
    cdef uint8_t secret[crypto_sign_SECRETKEYBYTES]
    cdef uint8_t signature[crypto_sign_BYTES]
    cdef const uint8_t *at = message
    cdef const uint8_t *seed_at = seed
    cdef unsigned long long length = len(message)
    check("a seed", seed, crypto_sign_SEEDBYTES)
    with nogil:
        crypto_sign_seed_keypair(public, secret, seed_at)
        crypto_sign_detached(signature, NULL, at, length, secret)
        sodium_memzero(secret, sizeof(secret))
    return signature[:crypto_sign_BYTES]


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether `signature` is the key's, of `message`. Weak keys and second forms of a signature are
    refused."""
    cdef const uint8_t *key_at = public_key
    cdef const uint8_t *signature_at = signature
    cdef const uint8_t *at = message
    cdef unsigned long long length = len(message)
    cdef int wrong
    check("a public key", public_key, crypto_sign_PUBLICKEYBYTES)
    check("a signature", signature, crypto_sign_BYTES)
    with nogil:
        wrong = crypto_sign_verify_detached(signature_at, at, length, key_at)
    return wrong == 0


def encrypt(key: bytes, nonce: bytes, plain: bytes, bound: bytes) -> bytes:
    """The bytes of `plain` under `key`, and a tag. `bound`: what the tag covers too, and `decrypt` has to be
    given."""
    cdef bytes sealed = bytes(len(plain) + crypto_aead_xchacha20poly1305_ietf_ABYTES)
    cdef uint8_t *out = sealed
    cdef const uint8_t *key_at = key
    cdef const uint8_t *nonce_at = nonce
    cdef const uint8_t *at = plain
    cdef const uint8_t *bound_at = bound
    cdef unsigned long long length = len(plain), bound_length = len(bound)
    check("a seal's key", key, crypto_aead_xchacha20poly1305_ietf_KEYBYTES)
    check("a nonce", nonce, crypto_aead_xchacha20poly1305_ietf_NPUBBYTES)
    with nogil:
        crypto_aead_xchacha20poly1305_ietf_encrypt(
            out, NULL, at, length, bound_at, bound_length, NULL, nonce_at, key_at)
    return sealed


def decrypt(key: bytes, nonce: bytes, sealed: bytes, bound: bytes):
    """The plain bytes; None if key, nonce, bytes or `bound` are not those of `encrypt`."""
    cdef Py_ssize_t size = len(sealed) - crypto_aead_xchacha20poly1305_ietf_ABYTES
    check("a seal's key", key, crypto_aead_xchacha20poly1305_ietf_KEYBYTES)
    check("a nonce", nonce, crypto_aead_xchacha20poly1305_ietf_NPUBBYTES)
    if size < 0:
        return None
    # One byte at least: CPython's empty bytes is shared, and must not be written to.
    cdef bytes plain = bytes(size + 1)
    cdef uint8_t *out = plain
    cdef const uint8_t *key_at = key
    cdef const uint8_t *nonce_at = nonce
    cdef const uint8_t *at = sealed
    cdef const uint8_t *bound_at = bound
    cdef unsigned long long length = len(sealed), bound_length = len(bound)
    cdef int wrong
    with nogil:
        wrong = crypto_aead_xchacha20poly1305_ietf_decrypt(
            out, NULL, NULL, at, length, bound_at, bound_length, nonce_at, key_at)
    return None if wrong else plain[:size]
