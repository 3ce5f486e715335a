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

// slot loads once, whoever comes first; others wait for it.
type slot struct {
	once sync.Once
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
	s := l.loaded[spec.SHA256]
	if s == nil {
		s = &slot{}
		l.loaded[spec.SHA256] = s
	}
	l.mu.Unlock()
	s.once.Do(func() {
		spec.Path = l.store.Path(spec.Name, spec.Version, spec.SHA256)
		s.enc, s.err = l.rt.LoadEncoder(spec)
	})
	if s.err != nil {
		l.mu.Lock()
		if l.loaded[spec.SHA256] == s {
			delete(l.loaded, spec.SHA256)
		}
		l.mu.Unlock()
	}
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
		s.once.Do(func() {}) // wait for a load under way
		if s.enc != nil {
			// Statements may still hold it; nobody counts them. The collector knows when the last is gone.
			runtime.SetFinalizer(s.enc, func(e *Encoder) { _ = e.Close() })
		}
	}
}
