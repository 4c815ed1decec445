package kdht

import (
	"encoding/binary"
	"math/bits"
)

// BLAKE2b (RFC 7693), because Go's standard library has none.

var blakeStart = [8]uint64{
	0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
	0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179,
}

// The order of a block's words in each round, four bits a word.
var blakeOrder = [10]uint64{
	0x0123456789abcdef, 0xea489fd61c02b753, 0xb8c052fdae367194, 0x7931dcbe265a40f8,
	0x905724afe1bc683d, 0x2c6a0b834d75fe19, 0xc51fed4a0763928b, 0xdb7ec13950f4862a,
	0x6fe9b308c2d714a5, 0xa2847615fb9e3cd0,
}

// Columns, then diagonals.
var blakeMixed = [8][4]byte{
	{0, 4, 8, 12}, {1, 5, 9, 13}, {2, 6, 10, 14}, {3, 7, 11, 15},
	{0, 5, 10, 15}, {1, 6, 11, 12}, {2, 7, 8, 13}, {3, 4, 9, 14},
}

// blake2b hashes all parts one behind the other to size bytes. person has at most 16 bytes, key at most 64.
func blake2b(size int, person string, key []byte, parts ...[]byte) []byte {
	var parameters [64]byte
	copy(parameters[:], []byte{byte(size), byte(len(key)), 1, 1})
	copy(parameters[48:], person)
	h := blakeStart
	for i := range h {
		h[i] ^= binary.LittleEndian.Uint64(parameters[8*i:])
	}
	var data []byte
	if len(key) > 0 {
		data = append(append(data, key...), make([]byte, 128-len(key))...)
	}
	for _, part := range parts {
		data = append(data, part...)
	}
	count := uint64(len(data))
	for ; len(data) > 128; data = data[128:] {
		blakeCompress(&h, data, count-uint64(len(data))+128, 0)
	}
	blakeCompress(&h, append(data, make([]byte, 128-len(data))...), count, ^uint64(0))
	var digest []byte
	for _, word := range h {
		digest = binary.LittleEndian.AppendUint64(digest, word)
	}
	return digest[:size]
}

func blakeCompress(h *[8]uint64, block []byte, count, last uint64) {
	var v, m [16]uint64
	copy(v[:], h[:])
	copy(v[8:], blakeStart[:])
	v[12] ^= count
	v[14] ^= last
	for i := range m {
		m[i] = binary.LittleEndian.Uint64(block[8*i:])
	}
	for round := 0; round < 12; round++ {
		for i, w := range blakeMixed {
			order := blakeOrder[round%10]
			a, b, c, d := v[w[0]], v[w[1]], v[w[2]], v[w[3]]
			a += b + m[order>>(60-8*i)&15]
			d = bits.RotateLeft64(d^a, -32)
			c += d
			b = bits.RotateLeft64(b^c, -24)
			a += b + m[order>>(56-8*i)&15]
			d = bits.RotateLeft64(d^a, -16)
			c += d
			b = bits.RotateLeft64(b^c, -63)
			v[w[0]], v[w[1]], v[w[2]], v[w[3]] = a, b, c, d
		}
	}
	for i := range h {
		h[i] ^= v[i] ^ v[i+8]
	}
}
