package proxy

// named is what a session knows by name of things that the server makes: prepared statements or portals. The server
// confirms each after it was asked for, and the client may use it before that; so what was sent hides what was confirmed,
// until it is confirmed itself or dropped. An entry that is relayed is nothing but a name: it hides what had it before.
// T is compared by identity. The session's lock guards it.
type named[T interface {
	comparable
	isRelayed() bool
}] struct {
	sent, confirmed map[string]T
}

func newNamed[T interface {
	comparable
	isRelayed() bool
}]() named[T] {
	return named[T]{sent: map[string]T{}, confirmed: map[string]T{}}
}

func (n named[T]) empty() bool { return len(n.sent) == 0 && len(n.confirmed) == 0 }

// find returns what a message sent now will meet under a name; zero for what is simply the server's.
func (n named[T]) find(name string) T {
	v, ok := n.sent[name]
	if !ok {
		v = n.confirmed[name]
	}
	var none T
	if v == none || v.isRelayed() {
		return none
	}
	return v
}

// confirm is called when the server has made v, or with zero something that is simply its own.
func (n named[T]) confirm(name string, v T) {
	n.drop(name, v)
	var none T
	if v == none || v.isRelayed() {
		delete(n.confirmed, name)
		return
	}
	n.confirmed[name] = v
}

// drop is called when the server will not make v.
func (n named[T]) drop(name string, v T) {
	if n.sent[name] == v {
		delete(n.sent, name)
	}
}

func (n named[T]) clear() {
	clear(n.sent)
	clear(n.confirmed)
}
