package share

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Constants of 9P2000.L (kernel, include/net/9p/9p.h).
const (
	msgHeader = 7 // size[4] type[1] tag[2]
	tattach   = 104
	// maxAttach bounds an attach message: a user and a path name, both short.
	maxAttach = 4096
)

// attachNames passes a client's messages on and puts the user id of each attach
// into the attach's path name, "uid-N": the protocol library does not hand the
// id over, but whose fid creates a file is whom it belongs to.
type attachNames struct {
	r       io.Reader
	pending []byte // rewritten bytes, to be read next
	body    uint32 // what is left of a message that is passed through
}

func (a *attachNames) Read(p []byte) (int, error) {
	for {
		switch {
		case len(p) == 0:
			return 0, nil
		case len(a.pending) > 0:
			n := copy(p, a.pending)
			a.pending = a.pending[n:]
			return n, nil
		case a.body > 0:
			n, err := a.r.Read(p[:min(len(p), int(a.body))])
			a.body -= uint32(n)
			return n, err
		}
		if err := a.next(); err != nil {
			return 0, err
		}
	}
}

// next reads a message's header, and all of an attach.
func (a *attachNames) next() error {
	head := make([]byte, msgHeader)
	if _, err := io.ReadFull(a.r, head); err != nil {
		return err
	}
	size := binary.LittleEndian.Uint32(head)
	if size < msgHeader {
		return fmt.Errorf("9p message of %d bytes", size)
	}
	if head[4] != tattach {
		a.pending, a.body = head, size-msgHeader
		return nil
	}
	if size > maxAttach {
		return fmt.Errorf("9p attach of %d bytes", size)
	}
	body := make([]byte, size-msgHeader)
	if _, err := io.ReadFull(a.r, body); err != nil {
		return err
	}
	out, err := nameAttach(body)
	if err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(head, uint32(msgHeader+len(out)))
	a.pending = slices.Concat(head, out)
	return nil
}

// nameAttach rewrites the body of an attach: fid[4] afid[4] uname[s] aname[s]
// n_uname[4].
func nameAttach(body []byte) ([]byte, error) {
	le := binary.LittleEndian
	if len(body) < 10 {
		return nil, fmt.Errorf("9p attach of %d bytes", len(body))
	}
	uname := 8 + 2 + int(le.Uint16(body[8:]))
	if len(body) < uname+2 {
		return nil, fmt.Errorf("9p attach: user name outside of the message")
	}
	aname := uname + 2 + int(le.Uint16(body[uname:]))
	if len(body) < aname+4 {
		return nil, fmt.Errorf("9p attach: path name outside of the message")
	}
	name := attachPrefix + strconv.FormatUint(uint64(le.Uint32(body[aname:])), 10)
	out := append([]byte(nil), body[:uname]...)
	out = le.AppendUint16(out, uint16(len(name)))
	out = append(out, name...)
	return append(out, body[aname:aname+4]...), nil
}

const attachPrefix = "uid-"

// attachedID reads the name that nameAttach wrote.
func attachedID(name string) (uint32, bool) {
	text, ok := strings.CutPrefix(name, attachPrefix)
	id, err := strconv.ParseUint(text, 10, 32)
	return uint32(id), ok && err == nil
}
