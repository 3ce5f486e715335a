package training

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/robfig/cron/v3"
)

// due is a schedule whose time has come, or has not been worked out yet.
type due struct {
	EncoderID int64
	Schedule  string
	IsCron    bool
	NextAt    *time.Time // nil: not worked out yet
	Now       time.Time  // the server's
}

// startDue starts the trainings that schedules and growth ask for. All workers do: of those that try one and the same, the first
// one does it.
func (w *Worker) startDue(ctx context.Context) error {
	rows, err := w.pool.Query(ctx, `SELECT * FROM scrim.due_schedules()`)
	if err != nil {
		return err
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[due])
	if err != nil {
		return err
	}
	var failed []error
	for _, d := range list {
		failed = append(failed, w.start(ctx, d)) // one that cannot be started does not keep the others
	}
	_, err = w.pool.Exec(ctx, `SELECT scrim.run_growth()`)
	return errors.Join(append(failed, err)...)
}

func (w *Worker) start(ctx context.Context, d due) error {
	next, err := d.next()
	if err != nil {
		return err
	}
	var job *int64
	if err := w.pool.QueryRow(ctx, `SELECT scrim.run_schedule($1, $2, $3, $4)`, d.EncoderID, d.Schedule, d.NextAt, next).Scan(&job); err != nil {
		return fmt.Errorf("schedule %q: %w", d.Schedule, err)
	}
	if job != nil {
		w.log.InfoContext(ctx, "training by schedule", "job", *job)
	}
	return nil
}

// next is when a cron schedule is due after now; nil for an interval, which the server adds.
func (d due) next() (*time.Time, error) {
	if !d.IsCron {
		return nil, nil //nolint:nilnil // see above
	}
	schedule, err := cron.ParseStandard(strings.ToLower(strings.TrimSpace(d.Schedule))) // as scrim.is_cron reads it
	if err != nil {
		return nil, fmt.Errorf("schedule %q: %w", d.Schedule, err)
	}
	next := schedule.Next(d.Now.UTC())
	if next.IsZero() { // the 31st of February
		next = d.Now.AddDate(100, 0, 0)
	}
	return &next, nil
}
