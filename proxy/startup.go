package proxy

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
)

// maxStartupPackets is how many packets a connection may begin with: GSSENCRequest, SSLRequest, and the one that counts.
const maxStartupPackets = 3

var errTooManyRequests = errors.New("too many requests for encryption")

// startupConn gives a reader that reads ahead no more than the startup packet it is at. What follows a packet stays in
// the socket, so nothing that came in plain text can be taken for something that came by TLS (CVE-2021-23214): it meets
// the TLS handshake, and that fails.
type startupConn struct {
	net.Conn
	ahead   []byte // bytes that were taken from the connection and are still to be given
	rest    int    // bytes of the packet that are not taken yet
	packets int
	raw     bool // TLS has begun: no packets any more
}

// startsTLS tells whether the client begins with a TLS handshake (sslnegotiation=direct). No startup packet starts with
// this byte: it would be 369 MB long.
func (c *startupConn) startsTLS() (bool, error) {
	c.ahead = make([]byte, 1, 4)
	if _, err := io.ReadFull(c.Conn, c.ahead); err != nil {
		return false, err
	}
	const handshakeRecord = 0x16
	c.raw = c.ahead[0] == handshakeRecord
	return c.raw, nil
}

func (c *startupConn) Read(p []byte) (int, error) {
	if !c.raw && c.rest == 0 && (len(c.ahead) == 0 || c.packets == 0) {
		if err := c.header(); err != nil {
			return 0, err
		}
	}
	if len(c.ahead) > 0 {
		n := copy(p, c.ahead)
		c.ahead = c.ahead[n:]
		return n, nil
	}
	if c.raw {
		return c.Conn.Read(p)
	}
	n, err := c.Conn.Read(p[:min(len(p), c.rest)])
	c.rest -= n
	return n, err
}

// header takes the length of the next packet.
func (c *startupConn) header() error {
	if c.packets++; c.packets > maxStartupPackets {
		return errTooManyRequests
	}
	header := append(make([]byte, 0, 4), c.ahead...)
	if _, err := io.ReadFull(c.Conn, header[len(header):4]); err != nil {
		return err
	}
	c.ahead = header[:4]
	c.rest = max(int(binary.BigEndian.Uint32(c.ahead))-4, 0)
	return nil
}

// Write also sees where TLS begins: after the S that answers an SSLRequest.
func (c *startupConn) Write(p []byte) (int, error) {
	if string(p) == "S" {
		c.raw = true
	}
	return c.Conn.Write(p)
}
