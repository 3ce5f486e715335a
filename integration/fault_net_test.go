package integration_test

import "net"

// halfClose says that nothing more will be sent; what comes can still be read.
func halfClose(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
}
