package console

import (
	"net/netip"
	"sync"
	"time"
)

const (
	maxFailures = 10
	maxOrigins  = 1000
	window      = time.Minute
)

// attempts counts logins that failed, by where they come from: ten in a minute, and the minute must end. The zero value is ready.
type attempts struct {
	mu   sync.Mutex
	made map[netip.Prefix]*attempt
}

type attempt struct {
	failures int
	ends     time.Time
}

// begin counts a login as failed, and tells whether it may be tried.
func (a *attempts) begin(from netip.Prefix) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	here := a.made[from]
	if here == nil || now.After(here.ends) {
		a.makeRoom(now)
		here = &attempt{ends: now.Add(window)}
		a.made[from] = here
	}
	if here.failures >= maxFailures {
		return false
	}
	here.failures++
	return true
}

// forgive takes back what begin counted.
func (a *attempts) forgive(from netip.Prefix) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if here := a.made[from]; here != nil && here.failures > 0 {
		here.failures--
	}
}

// makeRoom forgets what has ended, and if that is not enough the one that ends first: who has a thousand networks is not
// held up by counting them.
func (a *attempts) makeRoom(now time.Time) {
	if a.made == nil {
		a.made = map[netip.Prefix]*attempt{}
	}
	if len(a.made) < maxOrigins {
		return
	}
	var first netip.Prefix
	for from, there := range a.made {
		switch {
		case now.After(there.ends):
			delete(a.made, from)
		case !first.IsValid() || there.ends.Before(a.made[first].ends):
			first = from
		}
	}
	if len(a.made) >= maxOrigins {
		delete(a.made, first)
	}
}
