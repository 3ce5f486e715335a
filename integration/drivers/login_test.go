package drivers_test

import (
	"fmt"
	"net"
	"sync/atomic"
)

// login is what a program is told about where to connect and as whom.
type login struct{ addr, user, password, database string }

// through connects through the proxy.
func (w *world) through(role string) login { return login{w.proxy, role, role, database} }

// directly connects around it.
func (w *world) directly(role string) login { return login{w.server.Addr(), role, role, database} }

// admin connects directly as the superuser.
func (w *world) admin(database string) login {
	return login{w.server.Addr(), w.server.Superuser(), w.server.Password(), database}
}

func (l login) dsn() string {
	return fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", l.user, l.password, l.addr, l.database)
}

// environ is the login as libpq's variables. No sslmode: what a driver tries by default belongs to what is tested.
func (l login) environ() []string {
	host, port, _ := net.SplitHostPort(l.addr) // an address of a listener
	return []string{"PGHOST=" + host, "PGPORT=" + port, "PGUSER=" + l.user, "PGPASSWORD=" + l.password, "PGDATABASE=" + l.database}
}

var channels atomic.Int64

// channel is a name for LISTEN that no other program uses: they share a database.
func channel() string { return fmt.Sprintf("channel_%d", channels.Add(1)) }
