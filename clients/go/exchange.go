package kdht

import (
	"context"
	"net"
	"net/netip"
	"os"
	"time"
)

// One request from its first datagram to its answer or its error. clients/README.md has the rules as tables.

const (
	maxWait, maxPause = 2 * time.Second, time.Second / 2
	maxTries          = maxSent / 2
	// UNREACHABLEs that are followed by another try at once; BAD_VERSIONs until a write in doubt is given up.
	maxBounces, maxDoubts = 5, 3
)

// sent is the note of a datagram.
type sent struct {
	node                               int
	attempt                            byte
	cookie                             uint64
	seq                                int64
	hasReply, changedNothing, isUnsure bool
}

type exchange struct {
	*call
	*Client
	id              uint64
	sock            *net.UDPConn
	sent            []sent
	attempt         byte // the next try's
	wakeAt, givesUp time.Time
	version         int64  // a write's
	since           int    // the first datagram with it
	retimed         bool   // a read's clock was corrected
	reason          Status // of a node, for the error
	held, result    *reply
	err             error

	tries, losses, laps, bounces, doubts, renewals int
}

// do sends a request until it has an accepted answer, or an *Error.
func (c *Client) do(ctx context.Context, q *call) (reply, error) {
	if len(q.body)+c.rights.proof > maxBody || q.op == opAnnounce && len(q.body) > recordSize+8+maxPayload {
		return reply{}, q.failed(TooLarge)
	}
	// Not connected, so one socket serves for all nodes. It is fresh: no late reply to another request comes in.
	sock, err := net.ListenUDP("udp", nil)
	if err != nil {
		return reply{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		<-ctx.Done()
		sock.Close()
	}()
	x := &exchange{call: q, Client: c, sock: sock, id: c.o.Draw(1<<58) << 6, givesUp: time.Now().Add(c.o.Timeout)}
	if q.isWrite {
		x.version = c.nextVersion(q.condition, 0)
	}
	x.try(int(c.current.Load()))
	for x.result == nil && x.err == nil {
		if x.await(); ctx.Err() != nil {
			return reply{}, ctx.Err()
		}
	}
	if x.err != nil {
		return reply{}, x.err
	} else if !q.accepts(x.result.status) {
		return reply{}, &Error{opNames[q.op], q.name, x.result.status, x.result.version}
	}
	return *x.result, nil
}

// await takes one datagram, or the end of the waiting time.
func (x *exchange) await() {
	buffer := make([]byte, headerSize+maxBody+1)
	x.sock.SetReadDeadline(x.wakeAt)
	size, from, err := x.sock.ReadFromUDPAddrPort(buffer)
	if os.IsTimeout(err) {
		x.timedOut()
		return
	}
	got := parseReply(buffer[:size], x.call, x.id)
	if err != nil || got == nil || got.number >= len(x.sent) ||
		netip.AddrPortFrom(from.Addr().Unmap(), from.Port()) != x.nodes[x.sent[got.number].node] {
		return
	}
	node := x.sent[got.number].node
	if x.current.Store(int32(node)); got.cookie != 0 {
		x.cookie.Store(got.cookie)
	}
	x.sent[got.number].hasReply = true
	x.take(got)
	if held := x.held; held != nil && x.result == nil && x.haveAllReplies() {
		if x.held = nil; held.status == BadVersion {
			x.chooseVersion(held)
		} else {
			x.conclude(held)
		}
	}
}

func (x *exchange) timedOut() {
	if x.held != nil {
		x.err = x.failed(Unconfirmed)
	} else if !time.Now().Before(x.givesUp) {
		x.fail()
	} else {
		if !x.last().hasReply {
			x.losses++
		}
		x.try(x.after(x.last().node))
	}
}

// --- Tries

func (x *exchange) try(node int) {
	if x.tries < x.o.Attempts {
		x.tries++
		x.send(node, x.attempt)
		x.attempt++
	} else if x.wakeAt = x.givesUp; x.haveAllReplies() { // else an answer to an earlier try still counts
		x.fail()
	}
}

func (x *exchange) send(node int, attempt byte) {
	seq, cookie := x.version, x.Cookie()
	if !x.isWrite {
		seq = x.now()
	}
	x.sock.WriteToUDPAddrPort(x.rights.pack(x.call, x.id|uint64(len(x.sent)), attempt, cookie, seq), x.nodes[node])
	x.sent = append(x.sent, sent{node: node, attempt: attempt, cookie: cookie, seq: seq})
	x.wait(maxWait)
}

// wait sets the time of the next try: it doubles with each loss. Clients that lost packets together must not try together.
func (x *exchange) wait(most time.Duration) {
	span := x.o.RetryAfter << x.losses
	if span > most || span <= 0 {
		span = most
	}
	x.wakeAt = time.Now().Add(span + time.Duration(x.o.Draw(uint64(span)/2+1)))
	if x.wakeAt.After(x.givesUp) {
		x.wakeAt = x.givesUp
	}
}

// pauseOr waits with nothing under way before the next try, or tries now.
func (x *exchange) pauseOr(pauses bool, node int) {
	if !pauses {
		x.try(node)
	} else if x.wait(maxPause); x.tries >= x.o.Attempts && x.haveAllReplies() {
		x.fail()
	}
}

func (x *exchange) after(node int) int { return (node + 1) % len(x.nodes) }
func (x *exchange) last() *sent        { return &x.sent[len(x.sent)-1] }
func (x *exchange) mayRepeat() bool    { return len(x.sent)-x.tries < maxSent-maxTries }

func (x *exchange) haveAllReplies() bool { return x.every(func(one sent) bool { return one.hasReply }) }

// inDoubt: some datagram of the write may have been carried out.
func (x *exchange) inDoubt() bool { return !x.every(func(one sent) bool { return one.changedNothing }) }

func (x *exchange) every(holds func(one sent) bool) bool {
	for _, one := range x.sent {
		if !holds(one) {
			return false
		}
	}
	return true
}

// --- Replies

func (x *exchange) take(got *reply) {
	of := &x.sent[got.number]
	isLast, next := of == x.last(), x.after(of.node)
	// A copy of a refused datagram was done, and the write is on its way under a greater version: that is its end.
	isLate := x.accepts(got.status) && got.number < x.since && x.since < len(x.sent)
	// The network doubles datagrams: another reply to this one does not end the doubt.
	of.isUnsure = of.isUnsure || isLate || got.status == Unconfirmed
	of.changedNothing = !x.accepts(got.status) && !of.isUnsure
	if isLate || x.held != nil && !x.accepts(got.status) {
		return
	}
	switch got.status {
	case BadVersion:
		if !x.isWrite {
			x.correctClock(got, of)
		} else if int64(got.version) < 0 { // above all ordinary versions, so no reason to refuse one: the node lies
			x.take(&reply{StorageFailed, got.number, 0, 0, nil})
		} else if got.number >= x.since { // the present version was chosen with what older refusals told
			x.chooseVersion(got)
		}
	case CookieNeeded:
		if got.cookie == 0 || got.cookie == of.cookie || !x.mayRepeat() {
			x.conclude(got)
		} else if x.last().cookie != got.cookie {
			x.send(of.node, of.attempt)
		}
	case NotResponsible: // the replicas are used up, so the best route is next
		if isLast {
			if x.attempt = 1; of.attempt > 0 {
				x.attempt, x.laps = 0, x.laps+1
			}
			x.pauseOr(of.attempt > 0 && x.laps > 1, next)
		}
	case Unreachable:
		if x.bounces++; isLast && x.bounces <= maxBounces {
			x.try(of.node)
		} else if isLast {
			x.pauseOr(true, next)
		}
	case StorageFailed, Full, Busy, Unconfirmed:
		if x.reason = got.status; isLast {
			x.pauseOr(x.reason == Busy || x.reason == Unconfirmed, next)
		}
	default:
		x.conclude(got)
	}
}

// correctClock: of a read, the time in its proof was refused.
func (x *exchange) correctClock(got *reply, of *sent) {
	if x.retimed || !x.mayRepeat() {
		x.conclude(got)
		return
	}
	x.retimed = true
	x.clockRefused(of.seq, int64(got.version))
	x.send(of.node, of.attempt)
}

// conclude ends the request with this reply, unless it refuses a write that another datagram may have done.
func (x *exchange) conclude(got *reply) {
	if x.isWrite && !x.accepts(got.status) && x.inDoubt() {
		x.hold(got)
	} else {
		x.result = got
	}
}

// --- Writes

// hold waits for the open datagrams.
func (x *exchange) hold(got *reply) {
	if x.haveAllReplies() {
		x.err = x.failed(Unconfirmed)
	} else {
		x.held, x.wakeAt = got, time.Now().Add(x.o.RetryAfter)
	}
}

// chooseVersion: the key has a newer version, or this host's clock is off.
func (x *exchange) chooseVersion(got *reply) {
	told, of := int64(got.version), &x.sent[got.number]
	x.reason = BadVersion
	x.clockRefused(x.version, told)
	if !x.inDoubt() {
		x.version, x.since, x.attempt = x.nextVersion(x.condition, told), len(x.sent), of.attempt
		x.renewals++
		x.pauseOr(x.renewals > 1, of.node)
	} else if x.doubts++; x.doubts >= maxDoubts || x.tries >= x.o.Attempts {
		x.hold(got)
	} else if of == x.last() { // another replica may know that the write was done; a greater version could undo later ones
		x.try(x.after(of.node))
	}
}

// fail ends the request without an answer.
func (x *exchange) fail() {
	status := Timeout
	if x.reason != OK && x.isWrite && x.inDoubt() {
		status = Unconfirmed
	} else if x.reason != OK {
		status = x.reason
	} else if x.haveAllReplies() {
		status = NotResponsible
	}
	x.err = x.failed(status)
}
