package kdht

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
)

// The bytes of requests and replies, as docs/protocol.md has them.

const (
	opGet, opPut, opDelete, opQuorumGet = 0x01, 0x02, 0x03, 0x05
	opAnnounce, opWithdraw, opMembers   = 0x07, 0x08, 0x09
	flagsOfReply, flagProven, flagIf    = 0x03, 0x08, 0x01
	headerSize, recordSize, proofSize   = 112, 16, 64
	maxBody, maxPayload, maxMemberTTL   = 1120, 256, 86400
	maxSent                             = 64 // datagrams of one request: the low 6 bits of its ID number them
)

var opNames = strings.Fields("- get put delete - get - announce withdraw members")

// Status is the reason of an Error: a node's, or one of the client's own.
type Status int

// Timeout: no answer; a write may have been done. BadAnswer: one that cannot be read. BadArgument: nothing was sent.
const (
	OK, NotFound, NotResponsible, CookieNeeded    Status = 0, 1, 2, 3
	TooLarge, BadRequest, StorageFailed, Busy     Status = 4, 5, 6, 7
	HopsEnded, Conflict, Unconfirmed, Unreachable Status = 8, 9, 10, 11
	Denied, BadVersion, TooFew, Full              Status = 12, 13, 14, 15
	Timeout, BadAnswer, BadArgument               Status = 256, 257, 258
)

var statusNames = strings.Fields("OK NOT_FOUND NOT_RESPONSIBLE COOKIE_NEEDED TOO_LARGE BAD_REQUEST STORAGE_FAILED BUSY " +
	"HOPS_ENDED CONFLICT UNCONFIRMED UNREACHABLE DENIED BAD_VERSION TOO_FEW FULL")

// Error is the status' name, so that errors.Is(err, kdht.Conflict) works.
func (s Status) Error() string {
	if s >= Timeout {
		return [...]string{"TIMEOUT", "ANSWER", "ARGUMENT"}[s-Timeout]
	} else if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return fmt.Sprintf("STATUS_%d", int(s))
}

// rights are a token and a scope.
type rights struct {
	grant, key []byte // nil: no token
	scope      string // 8 bytes, or none
	proof      int    // bytes of each request
}

func parseRights(text, scope string) (r rights, err error) {
	if scope != "" {
		r.scope = string(blake2b(8, "kdht-scope", nil, []byte(scope)))
	}
	if text == "" {
		return r, nil
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimPrefix(text, "kdht1."))
	if err != nil || len(raw) != 38 || !strings.HasPrefix(text, "kdht1.") {
		return r, fmt.Errorf("kdht: this token is damaged or cut off: copy it again")
	}
	// The text leaves out the grant's kind and its reserved byte.
	r.grant, r.key, r.proof = append([]byte{1, raw[0], raw[1], 0}, raw[2:22]...), raw[22:], proofSize
	if own := string(raw[14:22]); own != string(make([]byte, 8)) {
		if r.scope != "" && r.scope != own {
			return r, fmt.Errorf("kdht: this token is for another scope: leave the scope out, or use its own token")
		}
		r.scope = own
	}
	return r, nil
}

// call is the part of a request that is the same in all its datagrams.
type call struct {
	op               byte
	name             string
	inner, key, body []byte // body: without the proof; a write's version is put into its first 8 bytes
	maxReply         uint16
	isWrite, removes bool
	condition        *uint64
}

func (r *rights) call(op byte, name string, body []byte) *call {
	q := &call{op: op, name: name, body: body, inner: blake2b(20, "", nil, []byte(name))}
	q.removes = op == opDelete || op == opWithdraw
	q.isWrite = q.removes || op == opPut || op == opAnnounce
	if q.key = q.inner; r.scope != "" {
		q.key = blake2b(20, "kdht-scoped", nil, q.inner, []byte(r.scope))
	}
	return q
}

func (q *call) accepts(s Status) bool       { return s == OK || s == NotFound && q.removes }
func (q *call) failed(status Status) *Error { return &Error{opNames[q.op], q.name, status, 0} }

func packRecord(ttl uint32, condition *uint64, value []byte) []byte {
	body := binary.BigEndian.AppendUint64(make([]byte, 8), uint64(ttl)<<32)
	if condition != nil {
		body[15] = flagIf
		body = binary.BigEndian.AppendUint64(body, *condition)
	}
	return append(body, value...)
}

// pack makes a datagram. seq is a write's version, or a read's time.
func (r *rights) pack(q *call, id uint64, attempt byte, cookie uint64, seq int64) []byte {
	data := append(make([]byte, headerSize), q.body...)
	if q.isWrite {
		binary.BigEndian.PutUint64(data[headerSize:], uint64(seq))
	}
	if r.grant != nil {
		data[6] = flagProven
		claims := append(append([]byte{}, r.grant...), q.inner...)
		claims = binary.BigEndian.AppendUint64(claims, uint64(seq))
		mac := blake2b(12, "kdht-proof", r.key, []byte{q.op}, q.key, data[headerSize:], claims)
		data = append(append(data, claims...), mac...)
	}
	copy(data, "KDHT\x01")
	copy(data[16:], q.key)
	data[5], data[36] = q.op, attempt
	binary.BigEndian.PutUint64(data[8:], id)
	binary.BigEndian.PutUint16(data[38:], uint16(len(data)-headerSize))
	binary.BigEndian.PutUint16(data[82:], q.maxReply)
	binary.BigEndian.PutUint64(data[88:], cookie)
	return data
}

// reply is what a node said to the datagram of that number. version is that in a record's head; 0 if the body holds none.
type reply struct {
	status          Status
	number          int
	cookie, version uint64
	body            []byte
}

// parseReply reads untrusted bytes; nil for all that is no reply to this request.
func parseReply(data []byte, q *call, id uint64) *reply {
	if len(data) < headerSize || string(data[:5]) != "KDHT\x01" || data[5] != q.op || data[6] != flagsOfReply ||
		binary.BigEndian.Uint64(data[8:])&^(maxSent-1) != id || string(data[16:36]) != string(q.key) ||
		int(binary.BigEndian.Uint16(data[38:])) != len(data)-headerSize {
		return nil
	}
	got := &reply{Status(data[37]), int(data[15] % maxSent), binary.BigEndian.Uint64(data[88:]), 0, data[headerSize:]}
	if len(got.body) >= recordSize {
		got.version = binary.BigEndian.Uint64(got.body)
	}
	return got
}

// parseMembers reads one page of a set: its members, and the cursor for the next page, 0 at the end.
func parseMembers(body []byte) (found []Member, next uint64, ok bool) {
	if len(body) < 16 {
		return nil, 0, false
	}
	for rest := body[16:]; len(rest) > 0; {
		if len(rest) < 14 {
			return nil, 0, false
		}
		id, end := binary.BigEndian.Uint64(rest), 14+int(binary.BigEndian.Uint16(rest[12:]))
		if end > 14+maxPayload || end > len(rest) {
			return nil, 0, false
		}
		found = append(found, Member{id, binary.BigEndian.Uint32(rest[8:]), rest[14:end]})
		rest = rest[end:]
	}
	return found, binary.BigEndian.Uint64(body[8:]), true
}
