package udf

import (
	"context"
	"errors"
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
	loaded map[modelKey]*slot
	wanted map[modelKey]bool // what is kept once it is loaded; nil for all
}

// modelKey names a model. Not by its hash alone: who knows the hash of another's model must not get it under a name of his
// own, for which no file was published.
type modelKey struct {
	name    string
	version int
	sha256  string
	model   bool
}

func (s EncoderSpec) key() modelKey { return modelKey{s.Name, s.Version, s.SHA256, s.Model} }

// slot is an encoder that is loaded or being loaded. Who made the slot loads; others wait for done.
type slot struct {
	done chan struct{}
	enc  *Encoder
	err  error
}

// NewLibrary returns an empty library of the store's models.
func NewLibrary(rt *Runtime, store *Store) *Library {
	return &Library{rt: rt, store: store, loaded: map[modelKey]*slot{}}
}

// Store returns the folder that models are loaded from.
func (l *Library) Store() *Store { return l.store }

// Runtime returns the runtime that runs the library's models.
func (l *Library) Runtime() *Runtime { return l.rt }

// Encoder returns a loaded encoder, loading it first where needed. spec.Path is filled in from the store. A model that
// fails to load is tried again next time: its file may have been put back. One that is not wanted any more, for a statement
// that was planned before that was known, is loaded for the caller and not kept.
func (l *Library) Encoder(spec EncoderSpec) (*Encoder, error) {
	l.mu.Lock()
	s, found := l.loaded[spec.key()]
	if !found {
		s = &slot{done: make(chan struct{})}
		l.loaded[spec.key()] = s
	}
	l.mu.Unlock()
	if found {
		<-s.done
		return s.enc, s.err
	}
	s.enc, s.err = l.load(spec)
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := l.loaded[spec.key()] == s // and not forgotten while it was loaded
	if kept && (s.err != nil || l.wanted != nil && !l.wanted[spec.key()]) {
		delete(l.loaded, spec.key())
		kept = false
	}
	if s.err == nil && !kept {
		closeWhenUnused(s.enc)
	}
	close(s.done)
	return s.enc, s.err
}

func (l *Library) load(spec EncoderSpec) (*Encoder, error) {
	spec.Path = l.store.Path(spec.Name, spec.Version, spec.SHA256)
	return l.rt.LoadEncoder(spec)
}

// Check says why an encoder could not be loaded. It keeps nothing.
func (l *Library) Check(spec EncoderSpec) error {
	enc, err := l.load(spec)
	if err != nil {
		return err
	}
	return enc.Close()
}

// Prepare loads encoders that are wanted besides those that were, so that the first statement which uses one finds it warm.
// It returns when all are loaded or have failed; when ctx ends before that, it goes on in the background.
func (l *Library) Prepare(ctx context.Context, specs []EncoderSpec) error {
	l.mu.Lock()
	for _, s := range specs {
		if l.wanted != nil {
			l.wanted[s.key()] = true
		}
	}
	l.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		var errs []error
		for _, s := range specs {
			_, err := l.Encoder(s)
			errs = append(errs, err)
		}
		done <- errors.Join(errs...)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Loaded tells whether Encoder would return at once.
func (l *Library) Loaded(spec EncoderSpec) bool {
	l.mu.Lock()
	s, found := l.loaded[spec.key()]
	l.mu.Unlock()
	if !found {
		return false
	}
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// Retain forgets every encoder that is not among those given, and keeps no other from then on.
func (l *Library) Retain(specs []EncoderSpec) {
	keep := map[modelKey]bool{}
	for _, s := range specs {
		keep[s.key()] = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wanted = keep
	for key, s := range l.loaded {
		if keep[key] {
			continue
		}
		delete(l.loaded, key)
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
