// BLAKE2b (RFC 7693) with a person, which Node's crypto lacks.

const START = [
  0x6a09e667f3bcc908n, 0xbb67ae8584caa73bn, 0x3c6ef372fe94f82bn, 0xa54ff53a5f1d36f1n,
  0x510e527fade682d1n, 0x9b05688c2b3e6c1fn, 0x1f83d9abfb41bd6bn, 0x5be0cd19137e2179n,
];
// The order of a block's words in each round, one hexadecimal digit a word.
const ORDER = [
  "0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8",
  "905724afe1bc683d", "2c6a0b834d75fe19", "c51fed4a0763928b", "db7ec13950f4862a",
  "6fe9b308c2d714a5", "a2847615fb9e3cd0",
].map((digits) => [...digits].map((digit) => parseInt(digit, 16)));
// Columns, then diagonals.
const MIXED = [
  [0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15], [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14],
];

const wrap = (word) => BigInt.asUintN(64, word);
const rotate = (word, by) => wrap((word >> by) | (word << (64n - by)));

function compress(h, block, count, isLast) {
  const v = [...h, ...START];
  v[12] ^= BigInt(count);
  if (isLast) v[14] = wrap(~v[14]);
  for (let round = 0; round < 12; round++) {
    const order = ORDER[round % 10];
    MIXED.forEach(([a, b, c, d], i) => {
      v[a] = wrap(v[a] + v[b] + block.readBigUInt64LE(8 * order[2 * i]));
      v[d] = rotate(v[d] ^ v[a], 32n);
      v[c] = wrap(v[c] + v[d]);
      v[b] = rotate(v[b] ^ v[c], 24n);
      v[a] = wrap(v[a] + v[b] + block.readBigUInt64LE(8 * order[2 * i + 1]));
      v[d] = rotate(v[d] ^ v[a], 16n);
      v[c] = wrap(v[c] + v[d]);
      v[b] = rotate(v[b] ^ v[c], 63n);
    });
  }
  return h.map((word, i) => word ^ v[i] ^ v[i + 8]);
}

/** The hash of all parts one behind the other, `size` bytes. `person` has at most 16 bytes, `key` at most 64. */
export function blake2b(size, parts, { person = "", key = Buffer.alloc(0) } = {}) {
  const parameters = Buffer.alloc(64);
  parameters.set([size, key.length, 1, 1]);
  parameters.write(person, 48, "latin1");
  let h = START.map((word, i) => word ^ parameters.readBigUInt64LE(8 * i));
  const data = Buffer.concat([...(key.length ? [key, Buffer.alloc(128 - key.length)] : []), ...parts]);
  let at = 0;
  for (; data.length - at > 128; at += 128) h = compress(h, data.subarray(at, at + 128), at + 128, false);
  h = compress(h, Buffer.concat([data.subarray(at), Buffer.alloc(128 - data.length + at)]), data.length, true);
  const digest = Buffer.alloc(64);
  h.forEach((word, i) => digest.writeBigUInt64LE(word, 8 * i));
  return digest.subarray(0, size);
}
