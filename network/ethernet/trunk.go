package ethernet

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// maxBatch bounds the frames of one system call: beyond 64 the call's own
	// cost no longer shows [measured], and each costs a buffer.
	maxBatch = 64

	// batchBytes bounds the bytes of one system call, so that a batch of large
	// frames stays in the processor's cache between its two copies [measured].
	batchBytes = 512 << 10

	// minBatch is what an idle trunk keeps buffers for.
	minBatch = 2

	// maxBacklog bounds what waits in memory for one trunk, counted in buffer
	// bytes: a full TCP window (Linux's tcp_rmem allows 6 MiB) fits.
	maxBacklog = 8 << 20
)

// buffer holds one frame. Frames are received into large ones; one that has to
// wait is copied into a smaller one where it fits.
type buffer struct {
	data []byte
	pool *sync.Pool
}

// The large size holds any frame, and is one the allocator does not round up.
var small, medium, large = newPool(2 << 10), newPool(16 << 10), newPool(64 << 10)

func newPool(size int) *sync.Pool {
	p := new(sync.Pool)
	p.New = func() any { return &buffer{data: make([]byte, size), pool: p} }
	return p
}

func getBuffer(n int) *buffer {
	p := large
	switch {
	case n <= 2<<10:
		p = small
	case n <= 16<<10:
		p = medium
	}
	return p.Get().(*buffer)
}

func (b *buffer) release() { b.pool.Put(b) }

// trunk is the one NIC of a machine, plugged or not.
type trunk struct {
	machine string
	vlans   atomic.Pointer[[]*endpoint] // by VLAN, up to the highest in use; replaced under Switch.mu
	link    atomic.Pointer[link]        // nil while unplugged; replaced under Switch.mu
	counters
}

func (t *trunk) at(vlan uint16) *endpoint {
	if v := *t.vlans.Load(); int(vlan) < len(v) {
		return v[vlan]
	}
	return nil
}

func (t *trunk) setLocked(vlan uint16, ep *endpoint) {
	v := slices.Clone(*t.vlans.Load())
	if n := int(vlan) + 1; n > len(v) {
		v = append(v, make([]*endpoint, n-len(v))...)
	}
	v[vlan] = ep
	for len(v) > 0 && v[len(v)-1] == nil {
		v = v[:len(v)-1]
	}
	t.vlans.Store(&v)
}

// link is the socket of a plugged trunk, with its goroutines.
type link struct {
	trunk *trunk
	log   *slog.Logger
	conn  *net.UnixConn
	raw   syscall.RawConn
	wg    sync.WaitGroup
	done  chan struct{} // closed by close
	wake  chan struct{} // the backlog has become non-empty

	// waiting tells senders, without the lock, that frames must go to the
	// backlog to keep their order.
	waiting atomic.Bool

	mu      sync.Mutex // guards what follows
	backlog []waitingFrame
	bytes   int // of the buffers in backlog, not of their frames
}

// waitingFrame is a frame in a buffer of its own.
type waitingFrame struct {
	*buffer
	n  int
	to *endpoint
}

func openLink(t *trunk, file *os.File, s *Switch) (*link, error) {
	c, err := net.FileConn(file) // duplicates, close-on-exec, non-blocking
	if err != nil {
		return nil, err
	}
	conn, ok := c.(*net.UnixConn)
	if !ok || conn.LocalAddr().Network() != "unixgram" {
		c.Close()
		return nil, fmt.Errorf("%s is no unix datagram socket", file.Name())
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		c.Close()
		return nil, err
	}
	// Best effort: smaller buffers only mean that the backlog is used earlier.
	_ = conn.SetWriteBuffer(s.socketBuffer)
	_ = conn.SetReadBuffer(s.socketBuffer)
	return &link{
		trunk: t, log: s.log, conn: conn, raw: raw,
		done: make(chan struct{}), wake: make(chan struct{}, 1),
	}, nil
}

func (l *link) start() {
	l.wg.Add(2)
	go func() { defer l.wg.Done(); l.read() }()
	go func() { defer l.wg.Done(); l.drain() }()
}

func (l *link) close() {
	close(l.done)
	l.conn.Close() // wakes both goroutines
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.backlog {
		l.backlog[i].to.drop(DropFull)
		l.backlog[i].release()
	}
	l.backlog, l.bytes = nil, 0
	l.waiting.Store(true) // what still comes is dropped by enqueue
}

// read forwards what the machine sends, until the link is closed.
func (l *link) read() {
	in := newInbox()
	defer in.release()
	out := outbox{in: in}
	for {
		n, err := in.receive(l.raw)
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				l.log.Error("trunk ended", "machine", l.trunk.machine, "error", err)
			}
			return
		}
		vlans := *l.trunk.vlans.Load()
		for i := range n {
			l.forward(vlans, in, i, &out)
		}
		out.flush()
	}
}

// forward takes frame i of the inbox to where it belongs; to other trunks by
// way of the outbox.
func (l *link) forward(vlans []*endpoint, in *inbox, i int, out *outbox) {
	n, truncated := in.batch.received(i)
	if truncated || n < HeaderLen {
		l.trunk.drop(DropMalformed)
		return
	}
	f := Frame(in.buffers[i].data[:n])
	var from *endpoint
	if v := int(f.VLAN()); f.tagged() && v < len(vlans) {
		from = vlans[v]
	}
	if from == nil {
		l.trunk.drop(DropVLAN)
		return
	}
	if n > from.network.maxFrame {
		from.drop(DropOversize)
		return
	}
	if r := from.pin.check(f); r != 0 {
		from.drop(r)
		return
	}
	from.sentFrames.Add(1)
	from.sentBytes.Add(uint64(n))
	m := from.network.members.Load()
	if f.toGroup() {
		out.flush() // what came before goes before
		for _, to := range m.all {
			if to != from && (to.host != nil || !from.network.isolated) {
				to.deliver(f, [][]byte{f})
			}
		}
		return
	}
	switch to := m.byMAC[f.destination()]; {
	case to == nil || to == from:
		from.drop(DropUnknown)
	case to.host != nil:
		to.receivedFrames.Add(1)
		to.receivedBytes.Add(uint64(n))
		to.host.to.Receive(f)
	case from.network.isolated:
		from.drop(DropIsolated)
	default:
		f.setVLAN(to.vlan)
		out.add(to, i, n)
	}
}

// inbox holds the buffers frames are received into, as many as lately came at
// once.
type inbox struct {
	batch   *batch
	buffers [maxBatch]*buffer
	have    int // buffers allocated
	n       int // result of the last receive
	errno   syscall.Errno
	try     func(fd uintptr) bool // once, so that receive allocates nothing
}

func newInbox() *inbox {
	in := &inbox{batch: newBatch(maxBatch)}
	in.try = func(fd uintptr) bool {
		in.n, in.errno = in.batch.receive(fd, in.have)
		return in.errno != unix.EAGAIN
	}
	in.resize(minBatch)
	return in
}

func (in *inbox) replace(i int) {
	in.buffers[i] = large.Get().(*buffer)
	in.batch.set(i, in.buffers[i].data)
}

func (in *inbox) resize(n int) {
	for ; in.have < n; in.have++ {
		in.replace(in.have)
	}
	for ; in.have > n; in.have-- {
		in.buffers[in.have-1].release()
		in.buffers[in.have-1] = nil
		in.batch.set(in.have-1, nil)
	}
}

func (in *inbox) release() { in.resize(0) }

// receive waits for frames and returns their number. An error ends the link.
func (in *inbox) receive(raw syscall.RawConn) (int, error) {
	in.adapt()
	for {
		if err := raw.Read(in.try); err != nil {
			return 0, err
		}
		switch in.errno {
		case 0:
			return in.n, nil
		case unix.ECONNRESET, unix.ENOBUFS, unix.ENOMEM:
			// The peer's end changed hands, or the kernel is short: both pass.
		default:
			return 0, os.NewSyscallError("recvmmsg", in.errno)
		}
	}
}

// adapt doubles a batch that was full, and halves one that was mostly empty
// or held more bytes than a batch should.
func (in *inbox) adapt() {
	bytes := 0
	for i := range in.n {
		n, _ := in.batch.received(i)
		bytes += n
	}
	switch {
	case in.have > minBatch && (in.n < in.have/4 || bytes > 2*batchBytes):
		in.resize(in.have / 2)
	case in.n == in.have && in.have < maxBatch && bytes < batchBytes:
		in.resize(2 * in.have)
	}
}

// outbox collects the frames of one inbox by the trunk they go to, so that
// each trunk costs one system call.
type outbox struct {
	in    *inbox
	lists []*list
	used  int
}

// list is the frames for one link.
type list struct {
	link  *link
	batch *batch
	to    [maxBatch]*endpoint
	at    [maxBatch]int // index in the inbox
	size  [maxBatch]int
	n     int

	sent  int
	errno syscall.Errno
	try   func(fd uintptr)
}

func newList() *list {
	s := &list{batch: newBatch(maxBatch)}
	s.try = func(fd uintptr) {
		for s.sent < s.n {
			var n int
			n, s.errno = s.batch.send(fd, s.sent, s.n)
			if s.errno != 0 {
				return
			}
			s.sent += n
		}
	}
	return s
}

func (o *outbox) add(to *endpoint, at, n int) {
	l := to.trunk.link.Load()
	if l == nil {
		to.drop(DropFull)
		return
	}
	var s *list
	for _, have := range o.lists[:o.used] {
		if have.link == l {
			s = have
			break
		}
	}
	if s == nil {
		if o.used == len(o.lists) {
			o.lists = append(o.lists, newList())
		}
		s = o.lists[o.used]
		s.link = l
		o.used++
	}
	s.batch.set(s.n, o.in.buffers[at].data[:n])
	s.to[s.n], s.at[s.n], s.size[s.n] = to, at, n
	s.n++
}

func (o *outbox) flush() {
	for _, s := range o.lists[:o.used] {
		s.link.sendList(s, o.in)
		s.link, s.n = nil, 0
	}
	o.used = 0
}

// sendList sends the frames of s, and puts into the backlog what the socket
// does not take.
func (l *link) sendList(s *list, in *inbox) {
	s.sent, s.errno = 0, 0
	for s.sent < s.n && !l.waiting.Load() {
		before := s.sent
		s.errno = 0
		if err := l.raw.Control(s.try); err != nil { // closed
			s.drop(s.n)
			return
		}
		for i := before; i < s.sent; i++ {
			s.to[i].receivedFrames.Add(1)
			s.to[i].receivedBytes.Add(uint64(s.size[i]))
		}
		if s.errno != 0 {
			if full(s.errno) {
				break
			}
			s.drop(s.sent + 1) // this one cannot go; the next may
		}
	}
	if s.sent == s.n {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := s.sent; i < s.n; i++ {
		n, at := s.size[i], s.at[i]
		if !l.roomLocked(n) {
			s.to[i].drop(DropFull)
			continue
		}
		w := waitingFrame{buffer: getBuffer(n), n: n, to: s.to[i]}
		if w.pool == large { // hand over instead of copying
			w.buffer, in.buffers[at] = in.buffers[at], w.buffer
			in.batch.set(at, in.buffers[at].data)
		} else {
			copy(w.data, in.buffers[at].data[:n])
		}
		l.enqueueLocked(w)
	}
}

func (s *list) drop(upTo int) {
	for ; s.sent < upTo; s.sent++ {
		s.to[s.sent].drop(DropFull)
	}
}

// full tells that a socket may take the frame later.
func full(e syscall.Errno) bool { return e == unix.EAGAIN || e == unix.ENOBUFS || e == unix.ENOMEM }

// roomLocked tells whether a frame of n bytes may wait.
func (l *link) roomLocked(n int) bool {
	select {
	case <-l.done:
		return false
	default:
		return l.bytes+n <= maxBacklog
	}
}

func (l *link) enqueueLocked(w waitingFrame) {
	l.backlog = append(l.backlog, w)
	l.bytes += len(w.data)
	l.waiting.Store(true)
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// single sends one frame in pieces; pooled, because many goroutines do.
type single struct {
	vector vector
	errno  syscall.Errno
	try    func(fd uintptr)
}

var singles = sync.Pool{New: func() any {
	s := new(single)
	s.try = func(fd uintptr) { s.errno = s.vector.send(fd) }
	return s
}}

// sendOne sends one frame to ep, which l is the link of.
func (l *link) sendOne(ep *endpoint, pieces [][]byte) {
	n := 0
	for _, p := range pieces {
		n += len(p)
	}
	if !l.waiting.Load() {
		s := singles.Get().(*single)
		s.vector.set(pieces)
		err := l.raw.Control(s.try)
		errno := s.errno
		s.vector.clear()
		singles.Put(s)
		switch {
		case err == nil && errno == 0:
			ep.receivedFrames.Add(1)
			ep.receivedBytes.Add(uint64(n))
			return
		case err != nil || !full(errno):
			ep.drop(DropFull)
			return
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.roomLocked(n) {
		ep.drop(DropFull)
		return
	}
	w := waitingFrame{buffer: getBuffer(n), n: n, to: ep}
	b := w.data[:0]
	for _, p := range pieces {
		b = append(b, p...)
	}
	l.enqueueLocked(w)
}

// drain sends the backlog whenever the socket takes more, until the link is
// closed.
func (l *link) drain() {
	batch := newBatch(maxBatch)
	var sent, n int
	var errno syscall.Errno
	try := func(fd uintptr) bool {
		sent, errno = batch.send(fd, 0, n)
		return errno != unix.EAGAIN
	}
	for {
		select {
		case <-l.wake:
		case <-l.done:
			return
		}
		for {
			l.mu.Lock()
			n = min(len(l.backlog), maxBatch)
			if n == 0 {
				l.waiting.Store(false)
				l.mu.Unlock()
				break
			}
			// Only this goroutine removes frames, so these stay.
			for i := range n {
				batch.set(i, l.backlog[i].data[:l.backlog[i].n])
			}
			l.mu.Unlock()
			if err := l.raw.Write(try); err != nil {
				return // closed
			}
			l.mu.Lock()
			if errno != 0 { // the first frame cannot go
				l.backlog[0].to.drop(DropFull)
				sent = 1
			} else {
				for i := range sent {
					w := &l.backlog[i]
					w.to.receivedFrames.Add(1)
					w.to.receivedBytes.Add(uint64(w.n))
				}
			}
			for i := range sent {
				l.bytes -= len(l.backlog[i].data)
				l.backlog[i].release()
			}
			l.backlog = slices.Delete(l.backlog, 0, sent)
			l.mu.Unlock()
		}
	}
}
