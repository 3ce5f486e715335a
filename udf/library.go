package udf

import (
	"runtime"
	"sync"
)

// Library holds the loaded encoders of a process. A statement gets an encoder once and keeps the pointer to its end:
// that is what keeps versions from mixing in one result. An encoder that the library has forgotten is closed when the
// last statement that holds it is gone.
type Library struct {
	rt    *Runtime
	store *Store

	mu     sync.Mutex
	loaded map[string]*slot // by SHA-256
}

// slot is an encoder that is loaded or being loaded. Who made the slot loads; others wait for done.
type slot struct {
	done chan struct{}
	enc  *Encoder
	err  error
}

// NewLibrary returns an empty library of the store's models.
func NewLibrary(rt *Runtime, store *Store) *Library {
	return &Library{rt: rt, store: store, loaded: map[string]*slot{}}
}

// Store returns the folder that models are loaded from.
func (l *Library) Store() *Store { return l.store }

// Runtime returns the runtime that runs the library's models.
func (l *Library) Runtime() *Runtime { return l.rt }

// Encoder returns a loaded encoder, loading it first where needed. spec.Path is filled in from the store. A model that
// fails to load is tried again next time: its file may have been put back.
func (l *Library) Encoder(spec EncoderSpec) (*Encoder, error) {
	l.mu.Lock()
	s, found := l.loaded[spec.SHA256]
	if !found {
		s = &slot{done: make(chan struct{})}
		l.loaded[spec.SHA256] = s
	}
	l.mu.Unlock()
	if found {
		<-s.done
		return s.enc, s.err
	}
	spec.Path = l.store.Path(spec.Name, spec.Version, spec.SHA256)
	s.enc, s.err = l.rt.LoadEncoder(spec)
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := l.loaded[spec.SHA256] == s
	switch {
	case s.err != nil && kept:
		delete(l.loaded, spec.SHA256)
	case s.err == nil && !kept: // forgotten while it was loaded
		closeWhenUnused(s.enc)
	}
	close(s.done)
	return s.enc, s.err
}

// Retain forgets every encoder whose SHA-256 is not among those given.
func (l *Library) Retain(keep map[string]bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for hash, s := range l.loaded {
		if keep[hash] {
			continue
		}
		delete(l.loaded, hash)
		select {
		case <-s.done:
			if s.enc != nil {
				closeWhenUnused(s.enc)
			}
		default: // who loads it will see that it was forgotten
		}
	}
}

// closeWhenUnused closes an encoder that statements may still hold. Nobody counts them; the collector knows when the
// last is gone.
func closeWhenUnused(e *Encoder) {
	runtime.SetFinalizer(e, func(e *Encoder) { _ = e.Close() })
}
