package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"time"

	"kdht"
)

// keepFor is the TTL of the lease's record, seconds: long, because its version must not be forgotten between two leaders.
const keepFor = 7 * 24 * 3600

// Lease is held by at most one process at a time, as far as clocks run at the same speed. A leader that does not know yet that
// its lease has ended is harmless: what it writes with its fence is refused.
//
// The record names the holder. Holding means to change it, by its version, three times in the lease's time. A candidate that has seen
// one version for the whole time takes it over, by the same condition. So only spans of time are compared, never two hosts' clocks.
type Lease struct {
	client  *kdht.Client
	key     string
	holder  string // of this run of this process, so that nobody takes a former run's lease for its own
	span    time.Duration
	seen    uint64    // the record's version, 0 for none
	since   time.Time // when it was first seen
	until   time.Time // the end of the own lease
	fence   uint64
	holding bool
}

// NewLease holds nothing yet.
func NewLease(client *kdht.Client, name, id string, span time.Duration) *Lease {
	holder := fmt.Sprintf("%s/%016x", id, rand.New(rand.NewSource(time.Now().UnixNano())).Uint64())
	return &Lease{client: client, key: "lease/" + name, holder: holder, span: span}
}

// Fence grows with each leader: the version with which this one took the lease over.
func (l *Lease) Fence() uint64 { return l.fence }

// Holds is false once the lease may have passed on to another.
func (l *Lease) Holds() bool { return l.holding && time.Now().Before(l.until) }

// Step takes the lease, renews it, or finds that another holds it. Call it three times in the lease's time, or more often.
func (l *Lease) Step(ctx context.Context) error {
	if !l.holding {
		record, err := l.look(ctx)
		if err != nil {
			return err
		}
		isFree := len(record.Value) == 0
		if !isFree && !l.holding && time.Since(l.since) < l.span {
			return nil
		}
	}
	began := time.Now()
	version, err := l.put(ctx, l.holder)
	if err == nil {
		l.take(version)
		// From before the write: nobody can have seen its version earlier.
		l.until = began.Add(l.span)
		return nil
	}
	// Perhaps it was done all the same. The record tells.
	if _, failed := l.look(ctx); failed == nil && errors.Is(err, kdht.Conflict) {
		return nil
	}
	return err
}

// Release lets the next one take the lease at once.
func (l *Lease) Release(ctx context.Context) error {
	if !l.holding {
		return nil
	}
	l.holding = false
	_, err := l.put(ctx, "")
	return err
}

func (l *Lease) put(ctx context.Context, holder string) (uint64, error) {
	return l.client.Put(ctx, l.key, []byte(holder), kdht.How{TTL: keepFor, IfVersion: kdht.If(l.seen)})
}

// look reads the record; an empty one for none.
func (l *Lease) look(ctx context.Context) (kdht.Record, error) {
	record, err := l.client.Get(ctx, l.key, kdht.How{Quorum: true})
	if err != nil && !errors.Is(err, kdht.NotFound) {
		return record, err
	}
	if string(record.Value) == l.holder {
		// By a write without an answer. Nobody knows since when others see it, so the lease is no longer than before.
		l.take(record.Version)
	} else if record.Version != l.seen || l.since.IsZero() {
		l.holding, l.until, l.seen, l.since = false, time.Time{}, record.Version, time.Now()
	}
	return record, nil
}

func (l *Lease) take(version uint64) {
	if !l.holding {
		l.holding, l.fence = true, version
	}
	l.seen = version
}
