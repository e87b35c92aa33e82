//go:build linux

package dnsstub

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// message is a header and a question.
func message(flags [2]byte, answers byte, name string) []byte {
	return append([]byte{0xab, 0xcd, flags[0], flags[1], 0, 1, 0, answers, 0, 0, 0, 0}, append([]byte(name), 0, 1, 0, 1)...)
}

const (
	db      = "\x02db\x00"
	outside = "\x07example\x03com\x00"
)

func addr(n byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, n}) }

func TestAnswer(t *testing.T) {
	ok, none, refused := [2]byte{0x81, 0x80}, [2]byte{0x81, 0x83}, [2]byte{0x81, 0x85}
	type server struct {
		after time.Duration
		reply []byte // nil: never
	}
	for _, tt := range []struct {
		name      string
		query     string
		resolvers []server
		servers   []server
		want      []byte // flags of the reply
		after     time.Duration
	}{
		{"one network", db, []server{{time.Millisecond, message(ok, 1, db)}}, nil, ok[:], time.Millisecond},
		{"the second knows it, the first is slow to say no", db, []server{{3 * time.Second, message(none, 0, db)}, {time.Millisecond, message(ok, 1, db)}}, nil, ok[:], time.Millisecond},
		{"nobody knows it", db, []server{{time.Millisecond, message(refused, 0, db)}, {2 * time.Millisecond, message(none, 0, db)}}, nil, none[:], 2 * time.Millisecond},
		{"nobody is there", db, []server{{}}, nil, []byte{0x81, 0x82}, giveUp},
		{"no network", db, nil, nil, []byte{0x81, 0x82}, 0},
		{"a service's name stays inside", db, []server{{0, message(none, 0, db)}}, []server{{0, message(ok, 1, db)}}, none[:], 0},
		{"an outside name goes to the user's server", outside, []server{{0, message(refused, 0, outside)}}, []server{{time.Second, message(ok, 1, outside)}}, ok[:], time.Second},
		{"and to the next when that is silent", outside, []server{{0, message(none, 0, outside)}}, []server{{}, {time.Millisecond, message(ok, 2, outside)}}, ok[:], giveUp/2 + time.Millisecond},
		{"a network's own name with dots", outside, []server{{0, message(ok, 1, outside)}}, []server{{0, message(none, 0, outside)}}, ok[:], 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := new(Stub)
				all := map[netip.Addr]server{}
				for i, r := range tt.resolvers {
					all[addr(byte(i))] = r
					s.resolvers = append(s.resolvers, addr(byte(i)))
				}
				for i, r := range tt.servers {
					all[addr(byte(100+i))] = r
					s.servers = append(s.servers, addr(byte(100+i)))
				}
				ask := func(ctx context.Context, a netip.Addr, q []byte) ([]byte, error) {
					recurse := q[2]&1 != 0
					if inside := a.As4()[3] < 100; inside && len(tt.servers) > 0 == recurse {
						t.Errorf("%s was asked with recursion desired %v", a, recurse)
					}
					r := all[a]
					if r.reply == nil {
						<-ctx.Done()
						return nil, ctx.Err()
					}
					select {
					case <-time.After(r.after):
						return bytes.Clone(r.reply), nil
					case <-ctx.Done():
						return nil, ctx.Err()
					}
				}
				ctx, cancel := context.WithTimeout(t.Context(), giveUp)
				defer cancel()
				start := time.Now()
				got := s.answer(ctx, message([2]byte{0x01, 0}, 0, tt.query), ask)
				if !bytes.Equal(got[2:4], tt.want) || got[0] != 0xab {
					t.Errorf("flags % x, want % x", got[2:4], tt.want)
				}
				if d := time.Since(start); d != tt.after {
					t.Errorf("after %v, want %v", d, tt.after)
				}
			})
		})
	}
}

// No query, however malformed, is more than a failure.
func FuzzAnswer(f *testing.F) {
	f.Add(message([2]byte{1, 0}, 0, db), message([2]byte{0x81, 0x80}, 1, db))
	f.Add([]byte("0123456789ab"), []byte("0123456789ab"))
	f.Add([]byte("0123456789ab\x3f"), []byte("0123456789ab"))
	f.Fuzz(func(t *testing.T, query, reply []byte) {
		if len(query) < headerLen {
			return
		}
		s := &Stub{resolvers: []netip.Addr{addr(1)}, servers: []netip.Addr{addr(2)}}
		ask := func(context.Context, netip.Addr, []byte) ([]byte, error) {
			if len(reply) < headerLen { // exchanges drop these
				return nil, errors.New("short")
			}
			return bytes.Clone(reply), nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if got := s.answer(ctx, query, ask); len(got) < headerLen {
			t.Errorf("a reply of %d bytes", len(got))
		}
	})
}
