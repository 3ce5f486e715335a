package training

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/scrimdb/scrim/udf"
)

// The queues of River's that trainings wait in: those on a GPU have one of their own, of which workers take that have one.
const (
	queue     = "training"
	queueCUDA = "training_cuda"
)

// Config of a worker.
type Config struct {
	// DSN of the role that ran `scrim init`.
	DSN string
	// Library trains, and its store takes what was trained.
	Library *udf.Library
	// Logger defaults to slog.Default().
	Logger *slog.Logger
	// AtStep, for tests, is called before each step of a job, which is named.
	AtStep func(step string)
}

// Worker trains what is asked for, one encoder at a time over all workers of a database.
type Worker struct {
	cfg    Config
	dsn    *pgx.ConnConfig
	pool   *pgxpool.Pool
	client *river.Client[pgx.Tx]
	log    *slog.Logger
}

// Open connects. The database must have been initialised by this program's version, which catalog.Open checks.
func Open(ctx context.Context, cfg Config) (*Worker, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.AtStep == nil {
		cfg.AtStep = func(string) {}
	}
	poolConfig, err := pgxpool.ParseConfig(cfg.DSN)
	if err != nil {
		return nil, errors.New("training: the DSN is malformed") // the parser's own error could quote a password
	}
	poolConfig.MaxConns = 4
	poolConfig.ConnConfig.RuntimeParams["search_path"] = "pg_catalog,pg_temp"
	poolConfig.ConnConfig.RuntimeParams["application_name"] = "scrim worker"
	w := &Worker{cfg: cfg, dsn: poolConfig.ConnConfig.Copy(), log: cfg.Logger}
	if w.pool, err = pgxpool.NewWithConfig(ctx, poolConfig); err != nil {
		return nil, fmt.Errorf("training: %w", err)
	}
	workers := river.NewWorkers()
	river.AddWorker(workers, &trainer{Worker: w})
	queues := map[string]river.QueueConfig{queue: {MaxWorkers: 1}}
	if cfg.Library.Runtime().Device(udf.CUDA) == nil {
		queues[queueCUDA] = river.QueueConfig{MaxWorkers: 1}
	}
	const month = 30 * 24 * time.Hour
	w.client, err = river.NewClient(riverpgxv5.New(w.pool), &river.Config{
		Schema:     "scrim_state",
		Queues:     map[string]river.QueueConfig{queue: {MaxWorkers: 1}},
		Workers:    workers,
		Logger:     slog.New(quiet{cfg.Logger.Handler()}),
		JobTimeout: -1,
		// Any role may NOTIFY, and River's notices cancel jobs and pause queues.
		PollOnly:                    true,
		FetchPollInterval:           250 * time.Millisecond,
		RescueStuckJobsAfter:        100 * 365 * 24 * time.Hour, // scrim.rescue_training knows better, and sooner
		CompletedJobRetentionPeriod: month,
		CancelledJobRetentionPeriod: month,
		DiscardedJobRetentionPeriod: month,
	})
	if err != nil {
		w.pool.Close()
		return nil, fmt.Errorf("training: %w", err)
	}
	return w, nil
}

// Run works until ctx ends. A job that is under way then is put back, to be begun anew by another worker.
func (w *Worker) Run(ctx context.Context) error {
	defer w.pool.Close()
	for lost := false; ; lost = true { // the server may be away for a moment
		err := w.client.Start(context.WithoutCancel(ctx))
		if err == nil {
			break
		}
		if !lost {
			w.log.WarnContext(ctx, "the job queue cannot be reached, trying again every second", "error", err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Second):
		}
	}
	looked := make(chan struct{})
	go func() {
		defer close(looked)
		w.repeat(ctx, sweepPause, "sweep of the models", w.sweep)
	}()
	w.repeat(ctx, time.Second, "training jobs", func(ctx context.Context) error {
		return errors.Join(w.rescue(ctx), w.startDue(ctx))
	})
	<-looked
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := w.client.StopAndCancel(stopping); err != nil {
		w.log.WarnContext(stopping, "a training did not stop in time", "error", err)
	}
	return context.Cause(ctx)
}

// repeat does something again and again until ctx ends. That it fails is said once, until it works again.
func (w *Worker) repeat(ctx context.Context, pause time.Duration, what string, work func(context.Context) error) {
	every := time.NewTicker(pause)
	defer every.Stop()
	for failed := false; ; {
		trying, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := work(trying)
		cancel()
		if err != nil && ctx.Err() == nil && !failed {
			w.log.WarnContext(ctx, "housekeeping failed, trying again", "work", what, "every", pause, "error", err)
		}
		failed = err != nil
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
	}
}

// sweepPause is between two looks at the folder of models: so long the files of a dropped encoder stay.
const sweepPause = 5 * time.Second

// sweep removes files that no encoder has any more. The lock keeps jobs from beginning, and so from publishing.
func (w *Worker) sweep(ctx context.Context) error {
	removed, err := Sweep(ctx, w.pool, w.cfg.Library.Store(), func(ctx context.Context, tx pgx.Tx) (encoder string, err error) {
		err = tx.QueryRow(ctx, `SELECT scrim.encoder_in_training()`).Scan(&encoder)
		return encoder, err
	})
	if removed > 0 {
		w.log.InfoContext(ctx, "files of models that no encoder has were removed", "files", removed)
	}
	return err
}

// rescue puts in order what dead workers have left.
func (w *Worker) rescue(ctx context.Context) error {
	rows, err := w.pool.Query(ctx, `SELECT scrim.rescue_training()`)
	if err != nil {
		return err
	}
	jobs, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	for _, job := range jobs {
		w.log.WarnContext(ctx, "a worker died, its training job was taken from it", "job", job)
	}
	return err
}

// quiet passes River's warnings on, and what it says of its own doings as debug messages.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	if level < slog.LevelWarn {
		level = slog.LevelDebug
	}
	return q.Handler.Enabled(ctx, level)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }
func (q quiet) WithGroup(name string) slog.Handler       { return quiet{q.Handler.WithGroup(name)} }
