package proxy

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/scrimdb/scrim/rewrite"
)

// A statement that computes with masked columns is staged: the codes are listed first (codes.go), then the statement runs
// with the lists as parameters, and what it gives is simply the server's. Both must see the same rows. Where the transaction
// is ours it is of REPEATABLE READ. In a transaction of the client's that is of READ COMMITTED the statement can meet a
// row that has changed since; it fails then, and is tried again from a savepoint.

// tactic is how a staged statement is run, and again after a serialization failure.
type tactic struct {
	begin, undo, end string
	tries            int
}

var (
	// inOwn is in a transaction of ours, which the end of the client's message ends.
	inOwn = tactic{undo: "ROLLBACK", tries: 5}
	// once is among statements without a block, where nothing can be taken back alone.
	once = tactic{tries: 1}
)

// inTheirs is in a block of the client's.
func (f *frontend) inTheirs() tactic {
	name := f.s.srv.savepoint
	return tactic{begin: "SAVEPOINT " + name, undo: "ROLLBACK TO SAVEPOINT " + name, end: "RELEASE SAVEPOINT " + name, tries: 3}
}

// attempt is one try at a staged statement.
type attempt struct {
	last bool // what goes wrong is the client's to know
	once sync.Once
	done chan struct{}
	// again is set, before done is closed, when the server refused because rows have changed.
	again bool
}

func newAttempt(last bool) *attempt { return &attempt{last: last, done: make(chan struct{})} }

// settle says that the attempt failed and may be repeated, or that it will not be. The first word counts.
func (a *attempt) settle(again bool) {
	if a == nil {
		return
	}
	a.once.Do(func() {
		a.again = again
		close(a.done)
	})
}

// codeSerializationFailure is what a missing code raises too (scrim_runtime.no_code).
const codeSerializationFailure = "40001"

// begin starts what can be taken back.
func (f *frontend) begin(t tactic) error {
	if t.begin == "" {
		return nil
	}
	return f.silently(t.begin)
}

// undo takes an attempt back after the server has refused it, which by now skips to the next Sync.
func (f *frontend) undo(t tactic) error {
	f.s.srv.metrics.Repeats.Add(1)
	if err := f.syncSilently(); err != nil {
		return err
	}
	if err := f.silently(t.undo); err != nil {
		return err
	}
	if t == inOwn {
		return f.silently(f.beginOwn())
	}
	return nil
}

// beginOwn is the statement that begins a transaction in which listing and running see the same.
func (f *frontend) beginOwn() string {
	if f.s.planner.serializable {
		return "BEGIN ISOLATION LEVEL SERIALIZABLE"
	}
	return "BEGIN ISOLATION LEVEL REPEATABLE READ"
}

// failed waits for an attempt, and tells whether it is to be repeated.
func (f *frontend) failed(ctx context.Context, a *attempt) (bool, error) {
	f.out = append(f.out, frame('H', nil)...)
	if err := f.flush(); err != nil {
		return false, err
	}
	select {
	case <-a.done:
		return a.again, nil
	case <-ctx.Done():
	}
	// The server ignores a cancel request that comes between two messages, as the client's may have.
	for {
		select {
		case <-a.done:
			return a.again, nil
		case <-time.After(20 * time.Millisecond):
			f.s.srv.sendCancel(context.WithoutCancel(ctx), f.s.cancelKey())
		}
	}
}

// stagedPart runs a staged statement of a simple Query.
func (f *frontend) stagedPart(ctx context.Context, st *statement, x *execution, h *held, last bool, t tactic) error {
	ctx, done := f.s.cancellable(ctx)
	defer done()
	b := &bound{st: st, bind: &pgproto3.Bind{}, x: x}
	if err := f.begin(t); err != nil {
		return err
	}
	for try := 1; ; try++ {
		lists, err := f.listCodes(ctx, b)
		if err != nil {
			return f.unplanned(err, st.Text)
		}
		b.explain(lists)
		run, err := f.parseRun(b, lists)
		if err != nil {
			return err
		}
		a := newAttempt(try == t.tries)
		if err := f.bindRun(b, lists, &pending{kind: 'B', silent: true, edited: run, changes: f.s.send(f.s.hidesPortal("")), attempt: a}); err != nil {
			return f.unplanned(err, st.Text)
		}
		if err := f.described(run, x, h, last, a); err != nil {
			return err
		}
		again, err := f.failed(ctx, a)
		if err != nil {
			return err
		}
		if !again {
			break
		}
		if err := f.undo(t); err != nil {
			return err
		}
	}
	if err := f.closeRun(b); err != nil || t.end == "" {
		return err
	}
	return f.silently(t.end)
}

// closeRun lets the server forget what took the lists, which may be large.
func (f *frontend) closeRun(b *bound) error {
	name := runName
	if b.executes() {
		name = executeName
	}
	return f.send(&pgproto3.Close{ObjectType: 'S', Name: name}, &pending{kind: 'C', silent: true})
}

// described sends Describe and Execute of a statement of a simple Query.
func (f *frontend) described(st *statement, x *execution, h *held, last bool, a *attempt) error {
	changes := f.s.send(f.s.effect(st, x.cursor))
	err := f.send(&pgproto3.Describe{ObjectType: 'P'},
		&pending{kind: 'D', results: x.results, edited: st, held: h, gathers: st.Gathers || a != nil, relies: x.from.reliance(st), attempt: a})
	if err != nil {
		return err
	}
	return f.send(&pgproto3.Execute{},
		&pending{kind: 'E', results: x.results, edited: st, held: h, last: last, changes: changes, relies: x.from.reliance(st), attempt: a})
}

// trial is a staged statement that was bound by the extended protocol: until something else comes, its Execute can be
// repeated.
type trial struct {
	*bound
	tactic
	try     int
	attempt *attempt
}

// bindStaged lists the codes and binds a staged statement.
func (f *frontend) bindStaged(ctx context.Context, b *bound) error {
	if f.s.onLoop {
		return errWaits
	}
	switch ok, err := f.caughtUp(); {
	case err != nil:
		return err
	case !ok:
		return nil
	case len(b.bind.Parameters) != len(b.st.params): // the server says so
		return f.bindPlainly(b)
	case f.lacksBlock(b.st):
		// Since PostgreSQL 18 our questions have begun an implicit block.
		if err := f.syncSilently(); err != nil {
			return err
		}
		return f.bindPlainly(b)
	}
	ctx, done := f.s.cancellable(ctx)
	defer done()
	t, err := f.tactic()
	if err != nil {
		return err
	}
	if err := f.begin(t); err != nil {
		return err
	}
	f.trial = &trial{bound: b, tactic: t}
	return f.try(ctx, b.relies)
}

// bindPlainly sends the client's Bind without codes.
func (f *frontend) bindPlainly(b *bound) error {
	return f.send(b.bind, &pending{kind: 'B', edited: b.st, relies: b.relies, changes: f.s.send(b.makes)})
}

// syncSilently sends a Sync that the client hears nothing of.
func (f *frontend) syncSilently() error {
	return f.send(&pgproto3.Sync{}, &pending{kind: 'S', silent: true})
}

// tactic finds how to run a staged statement that is bound now, and prepares for it.
func (f *frontend) tactic() (tactic, error) {
	switch {
	case f.s.txStatus() == 'T':
		return f.inTheirs(), nil
	case f.s.txStatus() != 'I' || f.ran || f.ours: // in the middle of an implicit transaction, or of ours
		return once, nil
	}
	// Parsing has begun a transaction: end it, or ours could not have its isolation level.
	if err := f.afresh(); err != nil {
		return once, err
	}
	f.ours = true
	return inOwn, f.silently(f.beginOwn())
}

// afresh ends the implicit transaction in which nothing was executed yet. It waits for the answer: to PgBouncer, which pools
// transactions, what comes behind a Sync is another's until then.
func (f *frontend) afresh() error {
	if err := f.syncSilently(); err != nil {
		return err
	}
	if err := f.flush(); err != nil {
		return err
	}
	f.s.queue.drain()
	return nil
}

// try lists and binds once.
func (f *frontend) try(ctx context.Context, relies []change) error {
	t := f.trial
	t.try++
	lists, err := f.listCodes(ctx, t.bound)
	if err != nil {
		f.trial = nil
		return f.unplanned(err, t.st.Text)
	}
	t.explain(lists)
	run, err := f.parseRun(t.bound, lists)
	if err != nil {
		return err
	}
	t.attempt = newAttempt(t.try == t.tries)
	p := &pending{kind: 'B', edited: run, relies: relies, attempt: t.attempt}
	if t.try == 1 {
		p.changes = f.s.send(t.makes)
	} else {
		p.silent = true
		if err := f.send(&pgproto3.Close{ObjectType: 'P', Name: t.bind.DestinationPortal}, &pending{kind: 'C', silent: true}); err != nil {
			return err
		}
	}
	if err := f.bindRun(t.bound, lists, p); err != nil {
		f.trial = nil
		return f.unplanned(err, t.st.Text)
	}
	return nil
}

// executeStaged runs what was bound last, which p is.
func (f *frontend) executeStaged(ctx context.Context, msg []byte, name string, p *portal) error {
	if f.s.onLoop {
		return errWaits
	}
	ctx, done := f.s.cancellable(ctx)
	defer done()
	for f.trial != nil {
		t := f.trial
		err := f.forward(msg, &pending{
			kind: 'E', results: p.results, edited: p.stmt, relies: []change{{name: name, portal: p}}, attempt: t.attempt,
			changes: f.s.send(f.s.effect(p.stmt, p.declares)),
		})
		if err != nil {
			return err
		}
		again, err := f.failed(ctx, t.attempt)
		if err != nil {
			return err
		}
		if !again {
			return f.endTrial()
		}
		if err := f.undo(t.tactic); err != nil {
			return err
		}
		if err := f.try(ctx, nil); err != nil {
			return err
		}
	}
	return nil
}

// endTrial makes what was tried last.
func (f *frontend) endTrial() error {
	t := f.trial
	f.trial = nil
	if t == nil {
		return nil
	}
	if err := f.closeRun(t.bound); err != nil || t.end == "" {
		return err
	}
	return f.silently(t.end)
}

// endBlock ends a block of ours in the place of the Sync that would have ended the implicit one: as ROLLBACK, if something
// in it failed.
func (f *frontend) endBlock(h *held) error {
	f.ours = false
	if err := f.syncSilently(); err != nil {
		return err
	}
	return f.send(&pgproto3.Query{String: "COMMIT"}, &pending{kind: 'Q', held: h, changes: f.s.send(change{ends: true})})
}

// commitOurs ends a transaction of ours before something that is not to be part of it.
func (f *frontend) commitOurs() error {
	if !f.ours {
		return nil
	}
	f.ours = false
	return f.silently("COMMIT")
}

// lacksBlock tells whether a statement will be refused for want of a transaction block of the client's: one of ours must
// not stand for it.
func (f *frontend) lacksBlock(st *statement) bool {
	return st.Effect.Verb == rewrite.Declares && !st.Effect.Hold && f.s.queue.idle() && f.s.txStatus() == 'I' && !f.ran
}

// stages tells whether a statement must be staged: it, or what it executes.
func (f *frontend) stages(st *statement) bool {
	if made := f.origin(st).stmt; made != nil {
		st = made
	}
	return st.plan != nil && st.plan.Staged() && st.Effect.Verb != rewrite.Prepares
}
