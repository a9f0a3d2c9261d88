package server

import (
	"errors"
	"io/fs"
	"os"
	"time"
)

// orphanCheck is how often the keeper looks whether it can still be reached.
const orphanCheck = 10 * time.Second

// endWhenOrphaned ends a keeper that nobody can ever reach again, as its run
// directory has gone, once nothing runs that it keeps. (What ran goes on to be
// logged until then.)
func (s *Server) endWhenOrphaned() {
	for range time.Tick(orphanCheck) {
		if !s.orphaned() {
			continue
		}
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		s.ln.Close()
		return
	}
}

// orphaned reports whether the lock file has gone from its place and nothing
// runs.
func (s *Server) orphaned() bool {
	ours, err := s.lock.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(s.lock.Name())
	if err == nil && os.SameFile(ours, there) || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.procs {
		if !p.hasEnded() {
			return false
		}
	}
	return s.starting == 0
}
