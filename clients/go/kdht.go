// Package kdht is a thin client of kdht: values with conditions, and sets. It has no dependencies: copy the folder.
// Goroutines may share a Client. clients/README.md says how it behaves.
package kdht

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxClockError       = 60_000_000         // µs
	spread, spreadAhead = 1_000_000, 1 << 14 // µs; see nextVersion
)

// Options of a client. Only Nodes is needed.
type Options struct {
	Nodes      []string      // "host", "host:port", "[fd00::3]:port"; the port is 5348 unless given
	Timeout    time.Duration // of one request; 5 s
	Attempts   int           // tries of one request, 1 to 32; 16
	RetryAfter time.Duration // until a datagram counts as lost; 250 ms
	Token      string        // or "@FILE"; $KDHT_TOKEN if it is empty
	Scope      string        // of the keys; the token's if it is empty

	Clock func() int64              // for tests: microseconds since 1970
	Draw  func(below uint64) uint64 // for tests: a random number
}

// How one request is made. Not every field means something to every request.
type How struct {
	TTL       uint32  // seconds; 0 is without end of a put, and a day of a withdrawal
	IfVersion *uint64 // of a put or delete: the version that the key must have, 0 for none; see If
	Quorum    bool    // of a get or of members: sees every acknowledged write
	Max       int     // of a get: bytes of the value that fit; 0: any
	Member    string  // a member's name: 8 bytes, or a text that is hashed; "": the payload's hash
}

// If is for How.IfVersion.
func If(version uint64) *uint64 { return &version }

// Error is why a request failed. errors.Is(err, kdht.Conflict) asks for its status.
type Error struct {
	Op, Name string
	Status   Status
	Version  uint64 // of a Conflict: the version that the key has, 0 for none
}

func (e *Error) Error() string { return fmt.Sprintf("kdht: %s %q: %v", e.Op, e.Name, e.Status) }
func (e *Error) Unwrap() error { return e.Status }

// Record is a value with its version and the seconds left; 0: without end.
type Record struct {
	Value   []byte
	Version uint64
	TTL     uint32
}

// Member of a set, with the seconds left.
type Member struct {
	ID      uint64
	TTL     uint32
	Payload []byte
}

// Client asks the nodes of one cluster.
type Client struct {
	o      Options
	nodes  []netip.AddrPort
	rights rights

	current atomic.Int32 // the node that answered last
	cookie  atomic.Uint64
	offset  atomic.Int64 // of the cluster's clocks, µs
	mutex   sync.Mutex
	version int64 // the last one
}

// New looks the nodes' names up. It sends nothing.
func New(o Options) (*Client, error) {
	orElse(&o.Timeout, 5*time.Second)
	orElse(&o.RetryAfter, 250*time.Millisecond)
	orElse(&o.Attempts, 16)
	orElse(&o.Token, os.Getenv("KDHT_TOKEN"))
	if o.Clock == nil {
		o.Clock = func() int64 { return time.Now().UnixMicro() }
	}
	if o.Draw == nil {
		o.Draw = draw
	}
	if len(o.Nodes) == 0 || o.Timeout < 0 || o.RetryAfter < 0 || o.Attempts < 1 || o.Attempts > maxTries {
		return nil, fmt.Errorf("kdht: name a node, times above 0 and 1 to %d attempts", maxTries)
	}
	rights, err := parseRights(strings.TrimSpace(o.Token), o.Scope)
	c := &Client{o: o, rights: rights}
	for _, node := range o.Nodes {
		if _, _, err := net.SplitHostPort(node); err != nil {
			node = net.JoinHostPort(strings.Trim(node, "[]"), "5348")
		}
		address, failed := net.ResolveUDPAddr("udp", node)
		if failed != nil {
			return nil, fmt.Errorf("kdht: %w", failed)
		}
		c.nodes = append(c.nodes, netip.AddrPortFrom(address.AddrPort().Addr().Unmap(), uint16(address.Port)))
	}
	return c, err
}

func orElse[T comparable](option *T, otherwise T) {
	var none T
	if *option == none {
		*option = otherwise
	}
}

// Get returns the record, or an Error with NotFound.
func (c *Client) Get(ctx context.Context, name string, how How) (Record, error) {
	q := c.rights.call(opGet, name, nil)
	if q.maxReply = maxBody; how.Max > 0 && how.Max < maxBody-recordSize {
		q.maxReply = uint16(recordSize + how.Max)
	}
	if how.Quorum {
		q.op = opQuorumGet
	}
	got, err := c.do(ctx, q)
	if err != nil {
		return Record{}, err
	} else if len(got.body) < recordSize {
		return Record{}, q.failed(BadAnswer)
	}
	return Record{got.body[recordSize:], got.version, binary.BigEndian.Uint32(got.body[8:])}, nil
}

// Put returns the new version.
func (c *Client) Put(ctx context.Context, name string, value []byte, how How) (uint64, error) {
	got, err := c.write(ctx, opPut, name, how, how.IfVersion, value)
	return got.version, err
}

// Delete returns whether there was a value.
func (c *Client) Delete(ctx context.Context, name string, how How) (bool, error) {
	got, err := c.write(ctx, opDelete, name, How{}, how.IfVersion, nil)
	return err == nil && got.status == OK, err
}

// Announce makes the payload, at most 256 bytes, a member of the set for How.TTL seconds, at most 86,400. Announce again three
// times in it. It returns the version.
func (c *Client) Announce(ctx context.Context, set string, payload []byte, how How) (uint64, error) {
	if how.TTL < 1 || how.TTL > maxMemberTTL {
		return 0, &Error{"announce", set, BadArgument, 0}
	}
	got, err := c.write(ctx, opAnnounce, set, how, nil, append(memberName(payload, how), payload...))
	return got.version, err
}

// Withdraw returns whether it was a member. How.TTL is the greatest one of the announcements.
func (c *Client) Withdraw(ctx context.Context, set string, payload []byte, how How) (bool, error) {
	if orElse(&how.TTL, maxMemberTTL); how.TTL > maxMemberTTL {
		return false, &Error{"withdraw", set, BadArgument, 0}
	}
	got, err := c.write(ctx, opWithdraw, set, how, nil, memberName(payload, how))
	return err == nil && got.status == OK, err
}

func (c *Client) write(ctx context.Context, op byte, name string, how How, condition *uint64, value []byte) (reply, error) {
	q := c.rights.call(op, name, packRecord(how.TTL, condition, value))
	q.condition = condition
	return c.do(ctx, q)
}

func memberName(payload []byte, how How) []byte {
	if len(how.Member) == 8 {
		return []byte(how.Member)
	} else if how.Member != "" {
		payload = []byte(how.Member)
	}
	return blake2b(8, "kdht-member", nil, payload)
}

// Members are all members of the set, in the order of their IDs.
func (c *Client) Members(ctx context.Context, set string, how How) (members []Member, err error) {
	for cursor := uint64(1); cursor != 0; {
		q := c.rights.call(opMembers, set, append(binary.BigEndian.AppendUint64(nil, cursor), 0, 0, 0, 0))
		if how.Quorum {
			q.body[11] = 1
		}
		got, err := c.do(ctx, q)
		if err != nil {
			return nil, err
		}
		page, next, ok := parseMembers(got.body)
		if !ok || next != 0 && next <= cursor { // backwards: a walk without end
			return nil, q.failed(BadAnswer)
		}
		members, cursor = append(members, page...), next
	}
	return members, nil
}

// Cookie is the last one that a node gave; 0 for none.
func (c *Client) Cookie() uint64 { return c.cookie.Load() }

func (c *Client) now() int64 { return c.o.Clock() + c.offset.Load() }

// nextVersion is above the last one, the condition, and what a node told.
func (c *Client) nextVersion(condition *uint64, told int64) int64 {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	now := c.now()
	own, floor, alone := max(now, c.version+1), max(told, c.version)+1, condition != nil
	if alone {
		floor = max(floor, int64(*condition)+1)
	}
	if room := now - floor; alone && room > spreadAhead {
		// From the last second: two conditional writes of one value must not have one version.
		own -= int64(c.o.Draw(uint64(min(room, spread))))
	} else if alone || floor > own {
		own = floor + int64(c.o.Draw(spreadAhead))
		if behind := own - now; behind > 0 && behind <= maxClockError {
			c.offset.Add(behind)
		}
	}
	c.version = own
	return own
}

// clockRefused: a node refused this version, and told the key's or its clock.
func (c *Client) clockRefused(version, told int64) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	now := c.now()
	if told < version || told > now+maxClockError {
		c.offset.Add(told - now)
	}
	if told < version {
		c.version = min(c.version, told)
	}
}

func draw(below uint64) uint64 {
	var eight [8]byte
	if _, err := rand.Read(eight[:]); err != nil {
		panic("kdht: no random numbers: " + err.Error()) // guessable request IDs would let anybody answer
	}
	return binary.BigEndian.Uint64(eight[:]) % below
}

func min(a, b int64) int64 {
	if a < b {
		return a
	}
	return b
}

func max(a, b int64) int64 { return a + b - min(a, b) }
