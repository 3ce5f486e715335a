package proxy

import (
	"context"
	"sync"
	"sync/atomic"
)

// loops are the event loops of a server. Sessions are dealt out in turn.
type loops struct {
	count   int
	list    []*loop
	turn    atomic.Uint32
	running sync.WaitGroup
}

// start runs the loops until ctx ends.
func (ls *loops) start(ctx context.Context, srv *Server) error {
	for range ls.count {
		lp, err := newLoop(srv.log, srv.idle)
		if err != nil {
			for _, lp := range ls.list {
				lp.close()
			}
			return err
		}
		ls.list = append(ls.list, lp)
	}
	for _, lp := range ls.list {
		ls.running.Go(func() { lp.run(ctx, srv) })
	}
	return nil
}

func (ls *loops) wait() { ls.running.Wait() }

// adopt gives a session to a loop.
func (ls *loops) adopt(s *session) error {
	return ls.list[int(ls.turn.Add(1))%len(ls.list)].adopt(s)
}

// wakeUp has every loop look around.
func (ls *loops) wakeUp() {
	for _, lp := range ls.list {
		lp.wakeUp()
	}
}
