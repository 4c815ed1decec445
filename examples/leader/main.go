// Command leader writes numbered lines into a ledger as long as it is the leader of its group. Run it on several hosts: one writes,
// and another goes on when that one dies.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"kdht"
)

// ledger is what the leader works on. Its record has the fence of its last writer.
type ledger struct {
	Fence  uint64 `json:"fence"`
	Writer string `json:"writer"`
	Lines  int    `json:"lines"`
}

var errFenced = errors.New("a later leader has written")

// write adds a line, unless a later leader has written: then this process leads no more, whatever its own clock says.
func write(ctx context.Context, client *kdht.Client, key, id string, fence uint64) (int, error) {
	var found ledger
	record, err := client.Get(ctx, key, kdht.How{Quorum: true})
	if err == nil {
		err = json.Unmarshal(record.Value, &found)
	} else if errors.Is(err, kdht.NotFound) {
		err = nil
	}
	if err != nil {
		return 0, err
	}
	if found.Fence > fence {
		return 0, errFenced
	}
	found = ledger{fence, id, found.Lines + 1}
	value, err := json.Marshal(found)
	if err != nil {
		return 0, err
	}
	// The condition closes the gap between this look and this write.
	_, err = client.Put(ctx, key, value, kdht.How{IfVersion: kdht.If(record.Version)})
	return found.Lines, err
}

func main() {
	nodes := flag.String("nodes", "127.0.0.1", "HOST[:PORT], separated by commas")
	name := flag.String("name", "example", "the group's name")
	id := flag.String("id", "", "this process; the host's name unless given")
	span := flag.Duration("lease", 6*time.Second, "a dead leader is followed after this time")
	careless := flag.Bool("careless", false, "for the test: work on without a look at the lease, like a process that was stopped behind that look")
	flag.Parse()
	if *id == "" {
		*id, _ = os.Hostname()
	}
	if *span < time.Second {
		fmt.Fprintln(os.Stderr, "leader: -lease: a lease has 1 s at least")
		os.Exit(2)
	}
	// A request must not outlast its share of the lease.
	client, err := kdht.New(kdht.Options{Nodes: strings.Split(*nodes, ","), Timeout: *span / 3})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run(ctx, client, *name, *id, *span, *careless)
}

func run(ctx context.Context, client *kdht.Client, name, id string, span time.Duration, careless bool) {
	lease, leads := NewLease(client, name, id, span), false
	for ; ctx.Err() == nil; pause(ctx, span/6) {
		if leads && (careless || lease.Holds()) {
			if isFenced := work(ctx, client, "ledger/"+name, id, lease.Fence()); careless && !isFenced {
				continue
			}
		}
		if err := lease.Step(ctx); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, err)
		}
		if lease.Holds() != leads {
			leads = lease.Holds()
			say(leads, lease.Fence())
		}
	}
	farewell, cancel := context.WithTimeout(context.Background(), span)
	defer cancel()
	lease.Release(farewell)
}

// work returns whether a later leader has written.
func work(ctx context.Context, client *kdht.Client, key, id string, fence uint64) bool {
	lines, err := write(ctx, client, key, id, fence)
	switch {
	case errors.Is(err, errFenced):
		fmt.Printf("fenced fence=%d\n", fence)
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
	default:
		fmt.Printf("wrote line=%d fence=%d\n", lines, fence)
	}
	return errors.Is(err, errFenced)
}

func say(leads bool, fence uint64) {
	if leads {
		fmt.Printf("leads fence=%d\n", fence)
	} else {
		fmt.Println("follows")
	}
}

func pause(ctx context.Context, span time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(span):
	}
}
