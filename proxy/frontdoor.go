package proxy

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	wire "github.com/jeroenrinzema/psql-wire"
	"github.com/jeroenrinzema/psql-wire/pkg/buffer"
	"github.com/jeroenrinzema/psql-wire/pkg/types"
)

// maxStartupPacket is PostgreSQL's MAX_STARTUP_PACKET_LENGTH.
const maxStartupPacket = 10000

// serveConn is the story of a connection. It returns when the connection has ended, or an event loop drives its session.
func (srv *Server) serveConn(ctx context.Context, conn net.Conn) {
	s, err := srv.open(ctx, conn)
	if err != nil {
		srv.log.DebugContext(ctx, "connection ended", "client", conn.RemoteAddr(), "reason", err)
	}
	if s == nil {
		_ = conn.Close()
		return
	}
	s.inGoroutines(ctx)
}

// open greets a client, and begins its session by sending its startup packet upstream. It returns neither session nor
// error for a cancel request.
func (srv *Server) open(ctx context.Context, conn net.Conn) (*session, error) {
	if err := conn.SetDeadline(time.Now().Add(srv.startup)); err != nil {
		return nil, err
	}
	leave := srv.starting.enter(conn)
	start, err := srv.greet(conn)
	leave()
	if err == nil && start.cancel != "" {
		srv.forwardCancel(ctx, start.cancel)
		return nil, nil
	}
	var s *session
	if err == nil {
		s, err = srv.newLogin(ctx, start)
	}
	if own := (*Error)(nil); errors.As(err, &own) { // others were told, or are gone
		_, _ = start.conn.Write(own.encode())
	}
	if err != nil {
		return nil, err
	}
	return s, conn.SetDeadline(time.Time{}) // PostgreSQL's authentication_timeout takes over
}

// newLogin dials upstream for a client that has said who it is.
func (srv *Server) newLogin(ctx context.Context, start start) (_ *session, err error) {
	select {
	case srv.slots <- struct{}{}:
	default:
		return nil, &Error{Code: codeTooManyConnections, Fatal: true, Message: "sorry, too many clients already"}
	}
	defer func() {
		if err != nil {
			<-srv.slots
		}
	}()
	want, err := wants(start.packet)
	if err != nil {
		return nil, srv.askRefusal(ctx, start)
	}
	if err := srv.tls.clientConfig.checkClient(start.conn, want.role); err != nil {
		return nil, err
	}
	upstream, err := srv.dial(ctx)
	if err != nil {
		srv.log.ErrorContext(ctx, "upstream cannot be reached", "error", err)
		return nil, unreachable(err)
	}
	defer func() {
		if err != nil {
			_ = upstream.Close()
		}
	}()
	if _, err := upstream.Write(start.message()); err != nil {
		return nil, unreachable(err)
	}
	early, asked, err := srv.authenticate(ctx, start, want.role, upstream)
	if err != nil {
		return nil, err
	}
	s := srv.newSession(start.conn, upstream, early)
	if asked {
		s.queue.asks(1)
	}
	s.role, s.elsewhere, s.replicates = want.role, want.database != srv.catalog.Database(), want.replication
	s.address = addressOf(start.conn)
	srv.register(s)
	return s, nil
}

// start is what a client begins with.
type start struct {
	conn    net.Conn // a *tls.Conn, or what was accepted
	binding []byte   // the channel binding of that TLS, see clientTLS
	packet  []byte   // startup packet after its length: version and parameters
	early   []byte   // bytes after it that were read along, from TLS only
	cancel  cancelKey
}

// message is the startup packet with its length.
func (st start) message() []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(st.packet)+4)), st.packet...)
}

// greet reads up to the startup packet or cancel request. TLS after an SSLRequest and the refusal of GSS encryption are
// psql-wire's.
func (srv *Server) greet(accepted net.Conn) (start, error) {
	leg := srv.tls.client.Load()
	door := &startupConn{Conn: accepted}
	direct, err := door.startsTLS()
	if err != nil {
		return start{}, err
	}
	if !direct {
		return srv.greetBy(door, leg)
	}
	if leg == nil {
		return start{}, errors.New("handshake: direct SSL connection, but there is no certificate")
	}
	secured, err := leg.acceptDirect(door)
	if err != nil {
		return start{}, fmt.Errorf("handshake: %w", err)
	}
	begun, err := srv.greetBy(&startupConn{Conn: secured}, nil) // no TLS in TLS
	begun.binding = leg.binding
	return begun, err
}

// greetBy reads the startup packets. leg may be nil: then SSLRequest is answered with no.
func (srv *Server) greetBy(conn *startupConn, leg *clientTLS) (start, error) {
	var cancel cancelKey
	options := []wire.OptionFn{
		wire.Logger(srv.log),
		wire.MessageBufferSize(maxStartupPacket),
		wire.CancelRequest(func(_ context.Context, pid, secret int32) error {
			b := binary.BigEndian.AppendUint32(nil, uint32(pid))
			cancel = cancelKey(binary.BigEndian.AppendUint32(b, uint32(secret)))
			return nil
		}),
	}
	if leg != nil {
		options = append(options, wire.TLSConfig(leg.config))
	}
	door, err := wire.NewServer(nil, options...)
	if err != nil {
		return start{}, err
	}
	secured, version, reader, err := door.Handshake(conn)
	if version == types.VersionCancel {
		// The callback was given the first eight bytes; the rest of a longer key is still in the message. After a refused
		// SSLRequest Handshake calls a cancel request an error, and the whole key is there.
		if key := cancel + cancelKey(reader.Msg); len(key) >= 8 && len(key) <= 4+256 {
			return start{cancel: key}, nil
		}
		return start{}, errors.New("handshake: malformed cancel request")
	}
	if plain := (tls.RecordHeaderError{}); errors.As(err, &plain) {
		return start{}, fmt.Errorf("handshake: received unencrypted data after SSL request: %w", err)
	}
	if err != nil {
		return start{}, fmt.Errorf("handshake: %w", err)
	}
	const requestCodes = 1234 // the major version of requests that are no protocol
	if version.Major() == requestCodes {
		return start{conn: secured}, &Error{Code: codeFeatureNotSupported, Fatal: true, Message: fmt.Sprintf("unsupported frontend protocol %d.%d", version.Major(), version.Minor())}
	}
	packet := binary.BigEndian.AppendUint32(nil, uint32(version))
	begun := start{conn: secured, packet: append(packet, reader.Msg...)}
	if secured == net.Conn(conn) {
		begun.conn = conn.Conn // has not read ahead, and need not be asked any more
		return begun, nil
	}
	begun.binding, begun.early = leg.binding, leftover(reader)
	return begun, nil
}

// leftover returns what the reader has read beyond its last message.
func leftover(reader *buffer.Reader) []byte {
	b, ok := reader.Buffer.(*bufio.Reader)
	if !ok || b.Buffered() == 0 {
		return nil
	}
	early := make([]byte, b.Buffered())
	_, _ = io.ReadFull(b, early) // all of it is in memory
	return early
}

// errStartup is what a startup packet gives that the server refuses, or that could mean another thing to it: another
// protocol, no user, a malformed list.
var errStartup = &Error{Code: codeProtocolViolation, Fatal: true, Message: "invalid startup packet"}

// askRefusal has the server refuse such a packet in its own words. If it does anything else, errStartup is the answer.
func (srv *Server) askRefusal(ctx context.Context, start start) error {
	upstream, err := srv.dial(ctx)
	if err != nil {
		return unreachable(err)
	}
	defer func() { _ = upstream.Close() }()
	if err := upstream.SetDeadline(time.Now().Add(srv.startup)); err != nil {
		return unreachable(err)
	}
	if _, err := upstream.Write(start.message()); err != nil {
		return unreachable(err)
	}
	first := make([]byte, 1)
	if _, err := io.ReadFull(upstream, first); err != nil || first[0] != 'E' { // in protocol 2 too, which has no lengths
		return errStartup
	}
	rest, err := io.ReadAll(io.LimitReader(upstream, maxStartupPacket)) // a refusal ends the connection
	if err != nil {
		return errStartup
	}
	if _, err := start.conn.Write(append(first, rest...)); err != nil {
		return errClientGone
	}
	return errRefused
}

// startupParameters reads the pairs of a startup packet.
// https://www.postgresql.org/docs/current/protocol-message-formats.html, StartupMessage
func startupParameters(packet []byte) (map[string]string, error) {
	if len(packet) < 5 || packet[0] != 0 || packet[1] != 3 || packet[len(packet)-1] != 0 {
		return nil, errStartup
	}
	params := map[string]string{}
	parts := strings.Split(string(packet[4:len(packet)-1]), "\x00")
	if parts[len(parts)-1] != "" || len(parts)%2 == 0 {
		return nil, errStartup
	}
	for i := 0; i+1 < len(parts); i += 2 {
		if _, twice := params[parts[i]]; twice && parts[i] == "user" {
			return nil, errStartup // the server takes the last; do not guess
		}
		params[parts[i]] = parts[i+1]
	}
	return params, nil
}

// wanted is what a startup packet asks for.
type wanted struct {
	role, database string
	replication    bool
}

func wants(packet []byte) (wanted, error) {
	params, err := startupParameters(packet)
	if err != nil || params["user"] == "" {
		return wanted{}, errStartup
	}
	w := wanted{role: params["user"], database: cmp.Or(params["database"], params["user"])}
	switch params["replication"] {
	case "", "false", "off", "0":
	default:
		w.replication = true
	}
	return w, nil
}

// cancelRequestCode is the version number of a CancelRequest: 1234.5678.
const cancelRequestCode = 80877102

// maxCancelling is how many cancel requests may be on their way: they come from anybody, and each takes a connection. One
// more is dropped.
const maxCancelling = 64

// forwardCancel cancels an action of ours, and passes the request on: the server checks the key.
func (srv *Server) forwardCancel(ctx context.Context, key cancelKey) {
	// Ours last: the client may send its next statement as soon as it is told, and the server's signal must not hit that.
	// But the action is the one that runs now, not one that may have begun by then.
	if s := srv.cancels.find(key); s != nil {
		defer s.action()(&Error{Code: codeQueryCanceled, Message: "canceling statement due to user request"})
	}
	srv.sendCancel(ctx, key)
}

// sendCancel asks the server to cancel, and returns when it has.
func (srv *Server) sendCancel(ctx context.Context, key cancelKey) {
	select {
	case srv.cancelling <- struct{}{}:
		defer func() { <-srv.cancelling }()
	default:
		return
	}
	conn, err := srv.dial(ctx)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	msg := binary.BigEndian.AppendUint32(nil, uint32(8+len(key)))
	msg = binary.BigEndian.AppendUint32(msg, cancelRequestCode)
	_ = conn.SetDeadline(time.Now().Add(srv.startup))
	if _, err := conn.Write(append(msg, key...)); err != nil {
		return
	}
	_, err = conn.Read(make([]byte, 1)) // the server closes when it has signalled the backend
	if err != nil && !errors.Is(err, io.EOF) {
		srv.log.DebugContext(ctx, "cancel request", "error", err)
	}
}
