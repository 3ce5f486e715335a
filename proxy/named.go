package proxy

// named is what a session knows by name of things that the server makes: prepared statements or portals. The server
// confirms each after it was asked for, and the client may use it before that; so what was sent hides what was confirmed,
// until it is confirmed itself or dropped. An entry that is relayed is nothing but a name: it hides what had it before,
// because something that is simply the server's takes its place, or nothing does.
// The session's lock guards it.
type named[T nameable] struct {
	sent, confirmed map[string]T
	// kept is a name that stays when all go.
	kept string
}

// nameable is a pointer to what has a name, compared by identity.
type nameable interface {
	comparable
	isRelayed() bool
}

func newNamed[T nameable](kept string) named[T] {
	return named[T]{sent: map[string]T{}, confirmed: map[string]T{}, kept: kept}
}

func (n named[T]) empty() bool { return len(n.sent) == 0 && len(n.confirmed) == 0 }

// nameKey is what the server tells names apart by: NAMEDATALEN-1 bytes of them (its hash tables' key size).
func nameKey(name string) string { return name[:min(len(name), 63)] }

// find returns what a message sent now will meet under a name; zero for what is simply the server's.
func (n named[T]) find(name string) T {
	v, ok := n.sent[nameKey(name)]
	if !ok {
		v = n.confirmed[nameKey(name)]
	}
	var none T
	if v == none || v.isRelayed() {
		return none
	}
	return v
}

// isSent tells whether the server has not confirmed yet what the name was given to.
func (n named[T]) isSent(name string) bool {
	_, ok := n.sent[nameKey(name)]
	return ok
}

// send notes that v is asked for.
func (n named[T]) send(name string, v T) { n.sent[nameKey(name)] = v }

// sendAll notes that all names were asked to go; v is relayed.
func (n named[T]) sendAll(v T) {
	for name := range n.confirmed {
		if name != n.kept {
			n.sent[name] = v
		}
	}
	for name := range n.sent {
		if name != n.kept {
			n.sent[name] = v
		}
	}
}

// confirm is called when the server has made v, or with something relayed when it has done that.
func (n named[T]) confirm(name string, v T) {
	n.drop(name, v)
	if v.isRelayed() {
		delete(n.confirmed, nameKey(name))
		return
	}
	n.confirmed[nameKey(name)] = v
}

// confirmAll is called when the server has done what sendAll noted: what was confirmed before is gone.
func (n named[T]) confirmAll(v T) {
	n.dropAll(v)
	for name := range n.confirmed {
		if name != n.kept {
			delete(n.confirmed, name)
		}
	}
}

// drop is called when the server will not make v.
func (n named[T]) drop(name string, v T) {
	if n.sent[nameKey(name)] == v {
		delete(n.sent, nameKey(name))
	}
}

// dropAll is called when the server will not do what sendAll noted.
func (n named[T]) dropAll(v T) {
	for name, sent := range n.sent {
		if sent == v {
			delete(n.sent, name)
		}
	}
}
