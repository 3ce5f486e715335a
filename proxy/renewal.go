package proxy

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/scrimdb/scrim/catalog"
)

// A key may have been rotated since a statement was planned, and since this proxy heard of the catalog: the first seal of a new
// key tells it. A seal that does not open is therefore tried again with newer keys, before it is taken for a bad one.

// reopen calls open again, which has failed with errSeal and changed nothing, when learn has found keys that it did not have: in
// the snapshot at hand, or else in the catalog. On an event loop it returns errWaits where it would have to ask that.
func (s *session) reopen(ctx context.Context, learn func(*catalog.Snapshot) bool, open func() error) error {
	err := errSeal
	if learn(s.srv.catalog.Snapshot()) {
		err = open()
	}
	if !errors.Is(err, errSeal) {
		return err
	}
	if s.onLoop {
		return errWaits
	}
	s.srv.renew(ctx)
	if learn(s.srv.catalog.Snapshot()) {
		err = open()
	}
	return err
}

// renewal is for all sessions together.
type renewal struct {
	mu    sync.Mutex
	asked time.Time
}

// renewalPause is between two renewals: bad seals must not keep the catalog busy.
const renewalPause = time.Second

// renew brings the catalog up to date with what is committed now. It takes as long as the pause and twice catalogPatience, at most.
func (srv *Server) renew(ctx context.Context) {
	missed := time.Now()
	srv.renewal.mu.Lock()
	defer srv.renewal.mu.Unlock()
	if srv.renewal.asked.After(missed) { // another session has asked meanwhile
		return
	}
	select {
	case <-time.After(time.Until(srv.renewal.asked.Add(renewalPause))):
	case <-ctx.Done():
		return
	}
	srv.renewal.asked = time.Now()
	// Others wait for the answer too, so it does not end with this session.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), catalogPatience)
	defer cancel()
	if err := srv.refresh(ctx); err != nil {
		srv.log.WarnContext(ctx, "catalog reload for a new key failed", "error", err)
	}
}
