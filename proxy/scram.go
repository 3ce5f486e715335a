package proxy

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
)

// The messages and the arithmetic of SCRAM-SHA-256: RFC 5802, RFC 7677, and auth-scram.c in PostgreSQL, whose words the
// errors are. Nothing here does I/O; auth.go has the conversation.

// SASL mechanisms. https://www.postgresql.org/docs/current/sasl-authentication.html
const (
	scramSHA256     = "SCRAM-SHA-256"
	scramSHA256Plus = "SCRAM-SHA-256-PLUS"
)

// GS2 headers: what a client says of channel binding, RFC 5802 section 6.
const (
	gs2Unbound = "n,,"                      // it does not know channel binding
	gs2Offered = "y,,"                      // it does, and thinks that the server does not
	gs2Bound   = "p=tls-server-end-point,," // it uses it
)

// scramKey is a key, signature or proof: an HMAC-SHA-256.
type scramKey [sha256.Size]byte

func malformedSCRAM(detail string) *Error {
	return &Error{Code: codeProtocolViolation, Fatal: true, Message: "malformed SCRAM message", Detail: detail}
}

// clientFirst is a client-first-message.
type clientFirst struct {
	bare  string // all behind the GS2 header
	nonce string
}

// parseClientFirst reads a client-first-message with this GS2 header. The user name in it does not count: the startup
// packet has it.
//
//	gs2-header "n=" saslname ",r=" nonce *("," attr "=" value)
func parseClientFirst(msg, gs2 string) (clientFirst, bool) {
	bare, ok := strings.CutPrefix(msg, gs2)
	attributes := strings.Split(bare, ",")
	if !ok || strings.Contains(msg, "\x00") || len(attributes) < 2 || !strings.HasPrefix(attributes[0], "n=") {
		return clientFirst{}, false
	}
	nonce, ok := strings.CutPrefix(attributes[1], "r=")
	for _, extension := range attributes[2:] {
		ok = ok && isAttribute(extension)
	}
	return clientFirst{bare: bare, nonce: nonce}, ok && isNonce(nonce)
}

// clientFinal is a client-final-message.
type clientFinal struct {
	withoutProof string
	binding      string // base64 of the GS2 header and the channel binding
	nonce        string
	proof        scramKey
}

// parseClientFinal reads a client-final-message.
//
//	"c=" base64 ",r=" nonce *("," attr "=" value) ",p=" base64
func parseClientFinal(msg string) (clientFinal, *Error) {
	attributes := strings.Split(msg, ",")
	last := len(attributes) - 1
	var final clientFinal
	var c, r, p bool
	final.binding, c = strings.CutPrefix(attributes[0], "c=")
	if last >= 2 {
		final.nonce, r = strings.CutPrefix(attributes[1], "r=")
		var proof string
		proof, p = strings.CutPrefix(attributes[last], "p=")
		p = p && decodeKey(&final.proof, proof)
	}
	switch {
	case msg == "":
		return final, malformedSCRAM("The message is empty.")
	case strings.Contains(msg, "\x00"):
		return final, malformedSCRAM("Message length does not match input length.")
	case !c || !r:
		return final, malformedSCRAM("Channel binding and nonce expected in client-final-message.")
	case !p:
		return final, malformedSCRAM("Malformed proof in client-final-message.")
	}
	for _, extension := range attributes[2:last] {
		if !isAttribute(extension) || extension[0] == 'p' {
			return final, malformedSCRAM("Garbage found at the end of client-final-message.")
		}
	}
	final.withoutProof = strings.TrimSuffix(msg, ","+attributes[last])
	return final, nil
}

// serverFirst is a server-first-message.
type serverFirst struct {
	nonce      string // the client's and what the server put behind it
	salt       string // base64
	iterations int
}

func (s serverFirst) String() string {
	return "r=" + s.nonce + ",s=" + s.salt + ",i=" + strconv.Itoa(s.iterations)
}

var errServerSCRAM = errors.New("the upstream server sent a malformed SCRAM message")

// parseServerFirst reads a server-first-message, exactly as PostgreSQL writes it, that goes on from this client nonce.
//
//	"r=" nonce ",s=" base64 ",i=" number
func parseServerFirst(msg, clientNonce string) (serverFirst, error) {
	attributes := strings.Split(msg, ",")
	if len(attributes) != 3 {
		return serverFirst{}, errServerSCRAM
	}
	var first serverFirst
	var r, s, i bool
	first.nonce, r = strings.CutPrefix(attributes[0], "r=")
	first.salt, s = strings.CutPrefix(attributes[1], "s=")
	number, i := strings.CutPrefix(attributes[2], "i=")
	added, ours := strings.CutPrefix(first.nonce, clientNonce)
	salt, badSalt := base64.StdEncoding.Strict().DecodeString(first.salt)
	iterations, badNumber := strconv.ParseInt(number, 10, 32)
	first.iterations = int(iterations)
	if !r || !s || !i || !ours || !isNonce(added) || badSalt != nil || len(salt) == 0 || badNumber != nil || first.String() != msg || iterations < 1 {
		return serverFirst{}, errServerSCRAM
	}
	return first, nil
}

// isNonce tells whether s is printable ASCII without a comma, and not empty.
func isNonce(s string) bool {
	for _, c := range []byte(s) {
		if c < 0x21 || c > 0x7e || c == ',' {
			return false
		}
	}
	return s != ""
}

func isAttribute(s string) bool {
	return len(s) >= 2 && s[1] == '=' && (s[0] >= 'a' && s[0] <= 'z' || s[0] >= 'A' && s[0] <= 'Z')
}

// newNonce is as long as PostgreSQL's.
func newNonce() string {
	raw := make([]byte, 18)
	_, _ = rand.Read(raw) // never fails
	return base64.StdEncoding.EncodeToString(raw)
}

// bindingAttribute is the c attribute of a client-final-message.
func bindingAttribute(gs2 string, binding []byte) string {
	return base64.StdEncoding.EncodeToString(append([]byte(gs2), binding...))
}

// authMessage is what both sides sign.
func authMessage(clientFirstBare, serverFirst, clientFinalWithoutProof string) string {
	return clientFirstBare + "," + serverFirst + "," + clientFinalWithoutProof
}

func sign(key scramKey, message string) (signature scramKey) {
	mac := hmac.New(sha256.New, key[:])
	mac.Write([]byte(message))
	mac.Sum(signature[:0])
	return signature
}

// xor turns a client key and its signature into a proof, and a proof and the signature into the client key.
func (k scramKey) xor(other scramKey) (out scramKey) {
	subtle.XORBytes(out[:], k[:], other[:])
	return out
}

func (k scramKey) equal(other scramKey) bool { return subtle.ConstantTimeCompare(k[:], other[:]) == 1 }

func (k scramKey) base64() string { return base64.StdEncoding.EncodeToString(k[:]) }

// recoverClientKey takes the client key out of a proof, and tells whether it is the one that belongs to storedKey: whether
// the client knows the password.
func recoverClientKey(storedKey scramKey, message string, proof scramKey) (clientKey scramKey, ok bool) {
	clientKey = proof.xor(sign(storedKey, message))
	return clientKey, storedKey.equal(sha256.Sum256(clientKey[:]))
}

func decodeKey(key *scramKey, text string) bool {
	b, err := base64.StdEncoding.DecodeString(text)
	return err == nil && copy(key[:], b) == len(key) && len(b) == len(key)
}
