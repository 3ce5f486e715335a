package training

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/riverqueue/river"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/udf"
	"github.com/scrimdb/scrim/udf/report"
	"github.com/scrimdb/scrim/udf/train"
)

// task is what River keeps of a job. All else is in scrim_state.training_jobs and scrim_state.encoders.
type task struct {
	Encoder string `json:"encoder"` // for people to read
}

// Kind implements river.JobArgs.
func (task) Kind() string { return "train" }

// trainer is River's view of a Worker.
type trainer struct {
	river.WorkerDefaults[task]
	*Worker
}

// errCancelled means that somebody cancelled the job.
var errCancelled = errors.New("the training was cancelled")

// job is one attempt.
type job struct {
	*Worker
	row     *river.Job[task]
	order   order
	notices []notice

	conn   sync.Mutex // held by who uses holder
	holder *pgx.Conn  // the connection that has the slot

	mu       sync.Mutex
	step     string
	progress train.Progress
}

// order is what scrim.begin_training says.
type order struct {
	Outcome       string
	Encoder       string
	Version       int
	Features      []string
	LatentDims    int
	Epochs        int
	BatchSize     int
	Seed          int64
	Device        string
	MaxLeakage    *float64
	Target        *string
	TargetIsLabel *bool
	Query         string
	Reader        string
}

// notice is what WAIT tells its client besides progress.
type notice struct {
	Warning bool   `json:"warning"`
	Message string `json:"message"`
}

func (j *job) tell(format string, args ...any) {
	j.notices = append(j.notices, notice{Message: fmt.Sprintf(format, args...)})
}

// Work implements river.Worker.
func (t *trainer) Work(ctx context.Context, row *river.Job[task]) error {
	j := &job{Worker: t.Worker, row: row}
	var free bool
	err := t.pool.QueryRow(ctx, `SELECT scrim.slot_is_free()`).Scan(&free)
	if err == nil && !free {
		return river.JobSnooze(time.Second) // begin would find out too, at the cost of a connection and a password
	}
	if err == nil {
		err = j.connect(ctx)
	}
	if err == nil {
		defer func() { _ = j.holder.Close(context.WithoutCancel(ctx)) }()
		err = j.run(ctx)
	}
	switch {
	case err == nil:
		if err := t.sweep(ctx); err != nil { // what an earlier attempt has left, for example
			t.log.WarnContext(ctx, "the folder of models cannot be swept", "error", err)
		}
		return nil
	case errors.Is(err, errBusy):
		return river.JobSnooze(time.Second)
	case errors.Is(err, errLost):
		return err // who has the slot publishes, whatever River makes of this
	case ctx.Err() != nil: // this worker stops
		j.end(ctx, nil, false)
		return river.JobSnooze(0)
	}
	last := row.Attempt >= row.MaxAttempts || !passing(err)
	j.end(ctx, err, last)
	t.log.WarnContext(ctx, "training failed", "job", row.ID, "encoder", row.Args.Encoder, "attempt", row.Attempt, "error", err)
	if last {
		return river.JobCancel(err)
	}
	return err
}

var (
	errBusy = errors.New("another encoder is being trained")
	errLost = errors.New("the job is another worker's now")
)

// connect opens the connection that holds the slot. A worker's machine that is gone must not hold it for long, nor may settings of the
// role's or the database's end it.
func (j *job) connect(ctx context.Context) (err error) {
	cfg := j.dsn.Copy()
	cfg.ConnectTimeout = 5 * time.Second // scrim.rescue_training gives a job ten to begin
	for name, value := range map[string]string{
		"application_name":    "scrim training slot",
		"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3", "tcp_user_timeout": "20000",
		"lock_timeout": "0", "statement_timeout": "0", "idle_session_timeout": "0", "idle_in_transaction_session_timeout": "0",
	} {
		cfg.RuntimeParams[name] = value
	}
	if j.holder, err = pgx.ConnectConfig(ctx, cfg); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return nil
}

// run does one attempt. On return the slot is free if the job is done, and else for end to free.
func (j *job) run(ctx context.Context) error {
	password, verifier, err := newPassword()
	if err != nil {
		return err
	}
	j.cfg.AtStep("begin")
	if err := j.begin(ctx, verifier); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	watching, stop := context.WithCancel(ctx)
	go func() {
		defer close(watched)
		j.watch(watching, cancel)
	}()
	model, err := j.train(ctx, password)
	stop()
	<-watched // from here on the connection is ours
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	return j.publish(ctx, model)
}

// begin takes the slot.
func (j *job) begin(ctx context.Context, verifier string) error {
	rows, err := j.holder.Query(ctx, `SELECT * FROM scrim.begin_training($1, $2, $3)`, j.row.ID, j.row.Attempt, verifier)
	if err == nil {
		j.order, err = pgx.CollectExactlyOneRow(rows, scanOrder)
	}
	switch {
	case lockedOut(err):
		return errBusy
	case err != nil:
		return err
	case j.order.Outcome == "busy":
		return errBusy
	case j.order.Outcome == "lost":
		return errLost
	case j.order.Outcome == "cancelled":
		return errCancelled
	}
	j.note("reading", train.Progress{Epochs: j.order.Epochs})
	return nil
}

// scanOrder leaves an order empty but for its outcome if nothing was begun.
func scanOrder(row pgx.CollectableRow) (order, error) {
	var o order
	var encoder, device, query, reader *string
	var version, dims, epochs, batch *int
	var seed *int64
	err := row.Scan(&o.Outcome, &encoder, &version, &o.Features, &dims, &epochs, &batch, &seed, &device, &o.MaxLeakage, &o.Target, &o.TargetIsLabel, &query, &reader)
	if err == nil && o.Outcome == "begun" {
		o.Encoder, o.Version, o.LatentDims, o.Epochs, o.BatchSize, o.Seed = *encoder, *version, *dims, *epochs, *batch, *seed
		o.Device, o.Query, o.Reader = *device, *query, *reader
	}
	return o, err
}

// note sets what watch tells.
func (j *job) note(step string, p train.Progress) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.step, j.progress = step, p
}

// watch tells how far the job is, and ends it when somebody wishes or the slot's connection is gone.
func (j *job) watch(ctx context.Context, cancel context.CancelCauseFunc) {
	every := time.NewTicker(250 * time.Millisecond)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		j.mu.Lock()
		step, p := j.step, j.progress
		j.mu.Unlock()
		var cancelled bool
		// Not under ctx: the end of it must not cost the connection. A server that does not answer does.
		asking, done := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		j.conn.Lock()
		err := j.holder.QueryRow(asking, `SELECT scrim.training_progress($1, $2, $3, $4, $5, $6)`,
			j.row.ID, step, p.Epoch, p.Loss, p.RowsPerSecond, p.ETA.Seconds()).Scan(&cancelled)
		j.conn.Unlock()
		done()
		switch {
		case err != nil:
			cancel(fmt.Errorf("the training slot's connection: %w", err))
			return
		case cancelled:
			cancel(errCancelled)
			return
		}
	}
}

// trained is what is to be published.
type trained struct {
	train.Result
	report []byte
}

func (j *job) train(ctx context.Context, password string) (trained, error) {
	o := j.order
	cfg := train.Config{Features: o.Features, LatentDims: o.LatentDims, Epochs: o.Epochs, BatchSize: o.BatchSize, Seed: o.Seed, Device: udf.Device(o.Device)}
	if err := j.cfg.Library.Runtime().Device(cfg.Device); err != nil {
		return trained{}, err // before anything is read
	}
	if err := j.claim(ctx); err != nil {
		return trained{}, err
	}
	j.cfg.AtStep("read")
	data, target, err := j.read(ctx, password)
	if err != nil {
		return trained{}, err
	}
	if err := j.closeReader(ctx); err != nil {
		return trained{}, err
	}
	j.cfg.AtStep("train")
	started := time.Now()
	j.note("training", train.Progress{Epochs: o.Epochs})
	result, err := train.Run(ctx, j.cfg.Library.Runtime(), cfg, data, func(p train.Progress) {
		j.note("training", p)
		j.cfg.AtStep("epoch")
	})
	if err != nil {
		return trained{}, err
	}
	for i, n := range result.Nulls {
		if n > 0 {
			j.tell("column %q: %d of %d values are missing and were taken as the mean", o.Features[i], n, result.Rows)
		}
	}
	for _, w := range result.Warnings {
		j.notices = append(j.notices, notice{Warning: true, Message: w})
	}
	j.tell("trained on %d rows in %s", result.Rows, time.Since(started).Round(time.Millisecond))
	j.cfg.AtStep("report")
	j.note("reporting", train.Progress{Epoch: o.Epochs, Epochs: o.Epochs, Loss: result.Loss})
	made, err := report.Of(ctx, o.Features, data, result, target)
	if err != nil {
		return trained{}, err
	}
	if o.MaxLeakage != nil {
		if err := made.Check(*o.MaxLeakage); err != nil {
			return trained{}, err
		}
	}
	figures, err := made.JSON()
	return trained{result, []byte(figures)}, err
}

// publish writes the file and then, in one transaction, registers it, gives the slot back, and ends the job. After a
// crash at any moment the encoder has the old version or the new one, and the job is done or tried again.
func (j *job) publish(ctx context.Context, model trained) error {
	j.cfg.AtStep("publish")
	hash, err := j.cfg.Library.Store().Publish(j.order.Encoder, j.order.Version, model.Model)
	if err != nil {
		return err
	}
	notices, err := json.Marshal(j.notices)
	if err != nil {
		return err
	}
	j.cfg.AtStep("register")
	for {
		err = j.register(ctx, model, hash, notices)
		if !lockedOut(err) || ctx.Err() != nil {
			break // else somebody's transaction that changes the catalog stays open
		}
	}
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == "57014" {
		return errCancelled
	}
	if err == nil {
		j.cfg.AtStep("committed")
	}
	return err
}

// lockedOut tells whether an error is the end of lock_timeout.
func lockedOut(err error) bool {
	var refused *pgconn.PgError
	return errors.As(err, &refused) && refused.Code == "55P03"
}

func (j *job) register(ctx context.Context, model trained, hash string, notices []byte) error {
	return pgx.BeginFunc(ctx, j.holder, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `SELECT scrim.publish_version($1, $2, $3, $4, $5, $6, $7)`,
			j.row.ID, j.order.Version, hash, model.Rows, model.Loss, model.report, notices)
		if err != nil {
			return err
		}
		j.cfg.AtStep("commit")
		return nil
	})
}

// claim fails if the folder of models is another database's, whose workers would sweep away what this one publishes.
func (j *job) claim(ctx context.Context) error {
	return pgx.BeginFunc(ctx, j.pool, func(tx pgx.Tx) error {
		id, err := catalog.DatabaseID(ctx, tx)
		if err != nil {
			return err
		}
		return j.cfg.Library.Store().Claim(id)
	})
}

// end notes why an attempt failed, nil if it was only put off, and frees the slot, on its connection or, where that is gone, on another.
func (j *job) end(ctx context.Context, cause error, last bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	code, message, hint := described(cause)
	const sql = `SELECT scrim.end_training($1, $2, $3, $4, $5, $6)`
	args := []any{j.row.ID, j.row.Attempt, code, message, hint, last}
	if j.holder != nil {
		if _, err := j.holder.Exec(ctx, sql, args...); err == nil {
			return
		}
	}
	if _, err := j.pool.Exec(ctx, sql, args...); err != nil {
		j.log.WarnContext(ctx, "the end of a training could not be noted", "job", j.row.ID, "error", err)
	}
}

// passing tells whether an error may be gone at the next attempt.
func passing(err error) bool {
	var refused *pgconn.PgError
	var unfit *train.Error
	var device *udf.DeviceError
	switch {
	case errors.Is(err, errCancelled), errors.As(err, &unfit), errors.As(err, &device):
		return false
	case errors.As(err, &refused):
		switch refused.Code[:2] {
		case "08", "40", "53", "57", "58", "XX": // connection, serialization, resources, operator, system, internal
			return true
		}
		return false
	}
	return true
}

// described puts an error into PostgreSQL's terms; all nil for nil.
func described(err error) (code, message, hint *string) {
	if err == nil {
		return nil, nil, nil
	}
	c, m, h := "XX000", err.Error(), ""
	var refused *pgconn.PgError
	var unfit *train.Error
	var device *udf.DeviceError
	var file *fs.PathError
	switch {
	case errors.As(err, &device):
		c, m, h = "0A000", device.Message, device.Hint
	case errors.Is(err, errCancelled):
		c = "57014"
	case errors.As(err, &unfit):
		c, m, h = "22023", unfit.Message, unfit.Hint
	case errors.As(err, &refused):
		c, m, h = refused.Code, refused.Message, refused.Hint
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		c, h = "53100", "Make room in the folder of models."
	case errors.As(err, &file):
		c, h = "58030", "The folder of models must be there and writable for every worker."
	}
	return &c, &m, &h
}
