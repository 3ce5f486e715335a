//go:build !linux

package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"
)

// loop needs epoll. Elsewhere sessions stay in goroutines.
type loop struct{}

func newLoop(*slog.Logger, time.Duration) (*loop, error) { return &loop{}, nil }

func canLoop(net.Conn) bool { return false }

func (*loop) adopt(*session) error { return errors.ErrUnsupported }

func (*loop) wakeUp() {}

func (*loop) close() {}

func (*loop) run(ctx context.Context, _ *Server) { <-ctx.Done() }

func (*leg) writeSome([]byte) (int, error) { return 0, net.ErrClosed }

func (*leg) shutdownWrite() {}

func closeFD(int) {}

func setLowat(net.Conn, int) bool { return false }
