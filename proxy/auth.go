package proxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/scrimdb/scrim/catalog"
)

// authentication is the start of a session whose upstream leg is TLS, up to what the session can relay as it is.
//
// Everything but SCRAM needs no more than relaying, and SCRAM only on TLS. There the server offers channel binding: the
// client's proof shall count for the one TLS connection that both ends see. Here are two connections. A client without TLS
// must not see that offer (libpq would take it for an attack). With a client that has TLS, and takes the offer, Scrim holds
// two exchanges, each bound to its own connection, and passes the key from one to the other:
//
//  1. The server's salt and iteration count are what the client gets. For roles that do not exist or may not log in,
//     PostgreSQL makes them up, always the same; so Scrim tells no more about names than the server does.
//  2. The client's proof is checked with the StoredKey in pg_authid, and StoredKey and proof give the ClientKey.
//  3. The ClientKey makes the proof for the server, which decides. If there is none to make, the server gets a wrong one, so
//     that the failure is in its log and the client gets its words.
//  4. The server has to show that it knows the ServerKey; with that, Scrim signs for the client.
//
// Whatever a client sends that begins no such exchange goes to the server as it is: there it is refused, or it is a client
// without channel binding ("n"), which the server takes, here as directly. So nothing Scrim does not understand gets in.
type authentication struct {
	srv      *Server
	role     string
	client   net.Conn
	in       io.Reader // client, with what was read along before
	upstream net.Conn
	secured  bool   // the client has TLS
	binding  []byte // tls-server-end-point of the client's TLS; nil for none
	asked    bool   // the server waits for an answer of the client's
}

// errRefused means that the client has got the server's refusal.
var errRefused = errors.New("upstream refused the client")

// authenticate runs to where a session can go on by relaying. It returns what is left of early, and whether the server
// waits for an answer of the client's. It reads neither connection further than it must. An *Error has not been told to
// the client yet.
func (srv *Server) authenticate(ctx context.Context, start start, role string, upstream net.Conn) (early []byte, asked bool, err error) {
	if _, ok := upstream.(*tls.Conn); !ok {
		return start.early, false, nil
	}
	ahead := bytes.NewReader(start.early)
	a := &authentication{srv: srv, role: role, client: start.conn, in: io.MultiReader(ahead, start.conn), upstream: upstream, binding: start.binding}
	_, a.secured = start.conn.(*tls.Conn)
	if err := upstream.SetDeadline(time.Now().Add(srv.startup)); err != nil {
		return nil, false, err
	}
	stop := context.AfterFunc(ctx, func() {
		interrupt(start.conn)
		interrupt(upstream)
	})
	err = a.run(ctx)
	if !stop() {
		return nil, false, errFarewell
	}
	return start.early[len(start.early)-ahead.Len():], a.asked, errors.Join(err, upstream.SetDeadline(time.Time{}))
}

func (a *authentication) run(ctx context.Context) error {
	request, err := a.request()
	if err != nil {
		return err
	}
	var sasl pgproto3.AuthenticationSASL
	a.asked = awaitsAnswer(request[headerSize:])
	if sasl.Decode(request[headerSize:]) != nil || !slices.Contains(sasl.AuthMechanisms, scramSHA256Plus) {
		return a.toClient(request)
	}
	if a.binding == nil { // not TLS, or a certificate that nothing can be bound to
		sasl.AuthMechanisms = slices.DeleteFunc(sasl.AuthMechanisms, func(m string) bool { return m == scramSHA256Plus })
	}
	if err := a.toClient(encode(&sasl)); err != nil || !a.secured {
		return err
	}
	initial, err := a.fromClient()
	if err != nil {
		return err
	}
	a.asked = false
	first, ok := a.begins(initial)
	if !ok {
		return a.toUpstream(initial)
	}
	return a.pass(ctx, first)
}

// gs2 is the header that a client sends whose key has to be passed.
func (a *authentication) gs2() (mechanism, header string) {
	if a.binding == nil {
		return scramSHA256, gs2Offered // a "y" the server would refuse: it has offered
	}
	return scramSHA256Plus, gs2Bound
}

// begins reads the SASLInitialResponse of a client whose key has to be passed.
func (a *authentication) begins(msg []byte) (clientFirst, bool) {
	mechanism, header := a.gs2()
	var initial pgproto3.SASLInitialResponse
	if msg[0] != 'p' || initial.Decode(msg[headerSize:]) != nil || initial.AuthMechanism != mechanism {
		return clientFirst{}, false
	}
	size := binary.BigEndian.Uint32(msg[len(msg)-len(initial.Data)-4:])
	first, ok := parseClientFirst(string(initial.Data), header)
	return first, ok && int(size) == len(initial.Data)
}

// pass holds both exchanges.
func (a *authentication) pass(ctx context.Context, first clientFirst) error {
	up := a.newExchange()
	if err := a.toUpstream(up.initial()); err != nil {
		return err
	}
	challenge, err := a.sasl(pgproto3.AuthTypeSASLContinue)
	if err != nil {
		return err
	}
	if up.first, err = parseServerFirst(string(challenge), up.nonce); err != nil {
		return a.upstreamFault(ctx, err)
	}
	verifier, usable, err := a.verifier(ctx, up.first)
	if err != nil {
		return err
	}
	defer verifier.Clear()
	ours := serverFirst{nonce: first.nonce + newNonce(), salt: up.first.salt, iterations: up.first.iterations}
	if err := a.toClient(encode(&pgproto3.AuthenticationSASLContinue{Data: []byte(ours.String())})); err != nil {
		return err
	}
	final, err := a.final(ctx, ours.nonce)
	if err != nil {
		return err
	}
	message := authMessage(first.bare, ours.String(), final.withoutProof)
	clientKey, proven := recoverClientKey(verifier.StoredKey, message, final.proof)
	defer clear(clientKey[:])
	if err := a.toUpstream(up.final(clientKey, verifier.StoredKey, proven && usable)); err != nil {
		return err
	}
	signature, err := a.sasl(pgproto3.AuthTypeSASLFinal)
	if err != nil {
		return err
	}
	if want := "v=" + sign(verifier.ServerKey, up.message()).base64(); !proven || !usable || string(signature) != want {
		return a.upstreamFault(ctx, errors.New("the upstream server does not know the role's key"))
	}
	return a.toClient(encode(&pgproto3.AuthenticationSASLFinal{Data: []byte("v=" + sign(verifier.ServerKey, message).base64())}))
}

// verifier reads the role's verifier. It is not usable if there is none, or it is not what the server's challenge was made
// from: for a role that may not log in that is one made up. Then it is random, so that everything takes its time.
func (a *authentication) verifier(ctx context.Context, challenge serverFirst) (v *catalog.Verifier, usable bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, a.srv.startup)
	defer cancel()
	v, err = a.srv.catalog.Verifier(ctx, a.role)
	switch {
	case errors.Is(err, catalog.ErrVerifierDenied):
		a.srv.log.ErrorContext(ctx, "SCRAM authentication over TLS on both sides needs SELECT on pg_authid for the catalog role")
		return nil, false, &Error{
			Code: codeInvalidAuthorization, Fatal: true, Message: "the proxy cannot authenticate with channel binding",
			Hint: "GRANT SELECT ON pg_authid to the proxy's catalog role, or connect with channel_binding=disable.",
		}
	case err != nil:
		a.srv.log.ErrorContext(ctx, "a role's verifier cannot be read", "error", err)
		return nil, false, &Error{Code: codeConnectionFailure, Fatal: true, Message: "the proxy's catalog cannot be reached"}
	}
	if v != nil && v.Salt == challenge.salt && v.Iterations == challenge.iterations {
		return v, true, nil
	}
	if v != nil {
		a.srv.log.DebugContext(ctx, "the server's SCRAM challenge is not of the role's verifier: it has expired, or the catalog is of another server")
	}
	v = &catalog.Verifier{}
	_, _ = rand.Read(v.StoredKey[:]) // never fails
	return v, false, nil
}

// final reads the client-final-message and checks all of it but the proof.
func (a *authentication) final(ctx context.Context, nonce string) (clientFinal, error) {
	msg, err := a.fromClient()
	if err != nil {
		return clientFinal{}, err
	}
	if msg[0] != 'p' {
		return clientFinal{}, &Error{Code: codeProtocolViolation, Fatal: true, Message: "expected SASL response, got another message"}
	}
	final, malformed := parseClientFinal(string(msg[headerSize:]))
	_, header := a.gs2()
	switch {
	case malformed != nil:
		return final, malformed
	case final.binding != bindingAttribute(header, a.binding):
		a.srv.log.WarnContext(ctx, "SCRAM channel binding check failed: somebody may be between this client and the proxy", "client", a.client.RemoteAddr())
		return final, &Error{Code: codeInvalidAuthorization, Fatal: true, Message: "SCRAM channel binding check failed"}
	case final.nonce != nonce:
		return final, &Error{Code: codeProtocolViolation, Fatal: true, Message: "invalid SCRAM response", Detail: "Nonce does not match."}
	}
	return final, nil
}

// upstreamFault ends a login in which the server, or who poses as it, does not do its part.
func (a *authentication) upstreamFault(ctx context.Context, err error) error {
	a.srv.log.ErrorContext(ctx, "login refused", "error", err)
	return &Error{Code: codeProtocolViolation, Fatal: true, Message: err.Error()}
}

// exchange is Scrim's own with the server, as the client.
type exchange struct {
	mechanism, gs2 string
	binding        []byte
	nonce          string
	first          serverFirst
}

// newExchange binds to the server's certificate if that can be bound to.
func (a *authentication) newExchange() *exchange {
	e := &exchange{mechanism: scramSHA256, gs2: gs2Unbound, nonce: newNonce()}
	secured, ok := a.upstream.(*tls.Conn)
	if !ok {
		return e
	}
	if binding := endPointBinding(secured.ConnectionState().PeerCertificates[0]); binding != nil {
		e.mechanism, e.gs2, e.binding = scramSHA256Plus, gs2Bound, binding
	}
	return e
}

func (e *exchange) bare() string { return "n=,r=" + e.nonce }

func (e *exchange) withoutProof() string {
	return "c=" + bindingAttribute(e.gs2, e.binding) + ",r=" + e.first.nonce
}

func (e *exchange) message() string {
	return authMessage(e.bare(), e.first.String(), e.withoutProof())
}

// initial is the SASLInitialResponse.
func (e *exchange) initial() []byte {
	body := append([]byte(e.mechanism), 0)
	data := e.gs2 + e.bare()
	body = binary.BigEndian.AppendUint32(body, uint32(len(data)))
	return frame('p', append(body, data...))
}

// final is the SASLResponse with the proof, a wrong one if the client has not proved anything.
func (e *exchange) final(clientKey, storedKey scramKey, proven bool) []byte {
	proof := clientKey.xor(sign(storedKey, e.message()))
	if !proven {
		_, _ = rand.Read(proof[:]) // never fails
	}
	return frame('p', []byte(e.withoutProof()+",p="+proof.base64()))
}

// request relays until the server says how it wants to know the client, and returns that message.
func (a *authentication) request() ([]byte, error) {
	for {
		msg, err := readMessage(a.upstream)
		if err != nil {
			return nil, &Error{Code: codeConnectionFailure, Fatal: true, Message: "the connection to the upstream server was lost"}
		}
		switch msg[0] {
		case 'R':
			return msg, nil
		case 'E', 'N', 'v': // ErrorResponse, NoticeResponse, NegotiateProtocolVersion
			if err := a.toClient(msg); err != nil {
				return nil, err
			}
			if msg[0] == 'E' {
				return nil, errRefused
			}
		default:
			return nil, &Error{Code: codeProtocolViolation, Fatal: true, Message: "the upstream server sent an unexpected message"}
		}
	}
}

// sasl returns the data of the server's next authentication message, which must be of this type.
func (a *authentication) sasl(kind uint32) ([]byte, error) {
	msg, err := a.request()
	if err != nil {
		return nil, err
	}
	if body := msg[headerSize:]; len(body) >= 4 && binary.BigEndian.Uint32(body) == kind {
		return body[4:], nil
	}
	return nil, &Error{Code: codeProtocolViolation, Fatal: true, Message: "the upstream server sent an unexpected message"}
}

func (a *authentication) fromClient() ([]byte, error) {
	msg, err := readMessage(a.in)
	if errors.Is(err, errMessageLength) {
		return nil, &Error{Code: codeProtocolViolation, Fatal: true, Message: "invalid message length"}
	}
	if err != nil {
		return nil, errClientGone
	}
	return msg, nil
}

func (a *authentication) toClient(msg []byte) error {
	if _, err := a.client.Write(msg); err != nil {
		return errClientGone
	}
	return nil
}

func (a *authentication) toUpstream(msg []byte) error {
	if _, err := a.upstream.Write(msg); err != nil {
		return &Error{Code: codeConnectionFailure, Fatal: true, Message: "the connection to the upstream server was lost"}
	}
	return nil
}

var errMessageLength = errors.New("invalid message length")

// readMessage reads one message of an authentication and not a byte more. It takes what PostgreSQL takes (maxPassword), and
// allocates as much as the other side names only up to that.
func readMessage(r io.Reader) ([]byte, error) {
	header := make([]byte, headerSize)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[1:])
	if size < 4 || size > maxPassword {
		return nil, errMessageLength
	}
	msg := append(header, make([]byte, size-4)...)
	_, err := io.ReadFull(r, msg[headerSize:])
	return msg, err
}
