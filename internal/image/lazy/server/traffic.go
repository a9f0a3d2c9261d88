package server

import "sync"

// traffic is what goes on between a server and its registry. What somebody waits for goes
// before what is fetched behind, of all layers.
type traffic struct {
	mu      sync.Mutex
	changed *sync.Cond
	wanted  int // fetches that somebody waits for
	waiting int // those who wait for what is just being fetched behind
}

func newTraffic() *traffic {
	t := &traffic{}
	t.changed = sync.NewCond(&t.mu)
	return t
}

// yield waits until nobody waits for anything else than what is fetched behind.
func (t *traffic) yield() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.wanted > 0 && t.waiting == 0 {
		t.changed.Wait()
	}
}
