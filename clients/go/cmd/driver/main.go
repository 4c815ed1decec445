// Command driver carries out the commands of clients/README.md, for tests.
package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"kdht"
)

// driver has one client at a time.
type driver struct {
	client *kdht.Client
	clock  int64
	number uint64
}

// fields are those of one command. A field that cannot be read is remembered as an error.
type fields struct {
	values map[string]string
	err    error
}

var errArgument = errors.New("ARGUMENT")

func (f *fields) has(name string) bool {
	_, ok := f.values[name]
	return ok
}

func (f *fields) number(name string, otherwise uint64) uint64 {
	if !f.has(name) {
		return otherwise
	}
	found, err := strconv.ParseUint(f.values[name], 10, 64)
	if err != nil {
		f.err = errArgument
	}
	return found
}

func (f *fields) bytes(name string) []byte {
	found, err := hex.DecodeString(f.values[name])
	if err != nil {
		f.err = errArgument
	}
	return found
}

func (f *fields) milliseconds(name string) time.Duration {
	return time.Duration(f.number(name, 0)) * time.Millisecond
}

func (f *fields) how() kdht.How {
	ttl := f.number("ttl", 0)
	if f.has("ttl") && (ttl == 0 || ttl > 1<<32-1) {
		f.err = errArgument
	}
	how := kdht.How{TTL: uint32(ttl), Quorum: f.number("quorum", 0) == 1, Max: int(f.number("max", 0))}
	how.Member = string(f.bytes("member"))
	if f.has("if_version") {
		how.IfVersion = kdht.If(f.number("if_version", 0))
	}
	return how
}

func main() {
	d := &driver{}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fmt.Println(d.answer(lines.Text()))
	}
}

func (d *driver) answer(line string) string {
	words := strings.Fields(line)
	if len(words) == 0 {
		return "error ARGUMENT"
	}
	f := &fields{values: map[string]string{}}
	for _, word := range words[1:] {
		name, value, _ := strings.Cut(word, "=")
		f.values[name] = value
	}
	said, err := d.carryOut(words[0], f)
	if err == nil {
		return strings.TrimSpace("ok " + said)
	}
	var failed *kdht.Error
	if !errors.As(err, &failed) {
		return "error ARGUMENT"
	}
	if failed.Status == kdht.Conflict {
		return fmt.Sprintf("error CONFLICT version=%d", failed.Version)
	}
	return "error " + failed.Status.Error()
}

func (d *driver) carryOut(word string, f *fields) (string, error) {
	switch word {
	case "open":
		return "", d.open(f)
	case "clock":
		d.clock = int64(f.number("clock_us", 0))
		return "", f.err
	case "close":
		d.client = nil
		return "", nil
	}
	how, key, set := f.how(), string(f.bytes("key")), string(f.bytes("set"))
	value, payload := f.bytes("value"), f.bytes("payload")
	if f.err != nil || d.client == nil {
		return "", errArgument
	}
	ctx, client := context.Background(), d.client
	switch word {
	case "cookie":
		return fmt.Sprintf("cookie=%016x", client.Cookie()), nil
	case "get":
		record, err := client.Get(ctx, key, how)
		return fmt.Sprintf("version=%d ttl=%d value=%x", record.Version, record.TTL, record.Value), err
	case "put":
		return version(client.Put(ctx, key, value, how))
	case "delete":
		return found(client.Delete(ctx, key, how))
	case "announce":
		return version(client.Announce(ctx, set, payload, how))
	case "withdraw":
		return found(client.Withdraw(ctx, set, payload, how))
	case "members":
		members, err := client.Members(ctx, set, how)
		var said []string
		for _, each := range members {
			said = append(said, fmt.Sprintf("%016x:%d:%x", each.ID, each.TTL, each.Payload))
		}
		return "members=" + strings.Join(said, ","), err
	}
	return "", errArgument
}

func (d *driver) open(f *fields) error {
	o := kdht.Options{
		Nodes: strings.Split(f.values["nodes"], ","), Timeout: f.milliseconds("timeout_ms"),
		Attempts: int(f.number("attempts", 0)), RetryAfter: f.milliseconds("retry_ms"),
		Token: f.values["token"], Scope: string(f.bytes("scope")),
	}
	if f.has("clock_us") {
		d.clock = int64(f.number("clock_us", 0))
		o.Clock = func() int64 { return d.clock }
	}
	if f.has("number") {
		d.number = f.number("number", 0)
		o.Draw = d.draw
	}
	if f.err != nil {
		return f.err
	}
	var err error
	d.client, err = kdht.New(o)
	return err
}

// draw gives requests their numbers one after the other, and 0 for all else.
func (d *driver) draw(below uint64) uint64 {
	if below != 1<<58 {
		return 0
	}
	d.number++
	return d.number - 1
}

func version(number uint64, err error) (string, error) {
	return fmt.Sprintf("version=%d", number), err
}

func found(was bool, err error) (string, error) {
	if was {
		return "found=1", err
	}
	return "found=0", err
}
