package server

import (
	"net"
	"net/http"
	"sync"
	"time"
)

// silentGrace is how long a stopping server waits for connections to say something.
const silentGrace = 200 * time.Millisecond

// silent knows the connections that have not sent a request yet, such as those that browsers open ahead of need. A stopping http.Server would wait
// for them for 5 seconds.
type silent struct {
	mu    sync.Mutex
	conns map[net.Conn]bool
}

// note is a http.Server's ConnState.
func (s *silent) note(c net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state != http.StateNew {
		delete(s.conns, c)
		return
	}
	if s.conns == nil {
		s.conns = map[net.Conn]bool{}
	}
	s.conns[c] = true
}

// close closes them.
func (s *silent) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close() // nothing was said on it
	}
}
