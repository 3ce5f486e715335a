package catalog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// What the console shows. Unlike everything else in this package it is read on the connection of whoever asks, from the public
// views of schema scrim: PostgreSQL decides who may.

// Overview is everything that Scrim has in a database, as of one moment.
type Overview struct {
	Encoders []EncoderDetails
	Jobs     []TrainingJob // newest first, of the last month, a hundred at most
	Policies []PolicyDetails
}

// EncoderDetails is a row of scrim.encoders. Pointers are nil for what is not there.
type EncoderDetails struct {
	Name         string
	Source       string
	Features     []string
	Passthrough  []string
	Dims         int
	Epochs       int
	BatchSize    int
	Seed         int64
	Device       string
	MaxLeakage   *float64
	Target       *string
	Version      *int // the default version; nil while the first one is being trained
	Versions     int
	Rows         *int64
	Loss         *float64
	Schedule     *string
	RowGrowth    *int64
	NextTraining *time.Time
	CreatedBy    string
	CreatedAt    time.Time
}

// TrainingJob is a row of scrim.training_jobs.
type TrainingJob struct {
	ID            int64
	Encoder       string
	State         string // queued, running, completed, failed or cancelled
	Attempt       int
	MaxAttempts   int
	Step          *string // of a running one: reading, training, reporting or publishing
	Epoch         *int
	Epochs        *int
	Loss          *float64
	RowsPerSecond *float64
	SecondsLeft   *float64
	Version       *int
	Code          *string
	Error         *string
	Hint          *string
	Reason        string
	RequestedBy   *string // nil: the role was dropped
	CreatedAt     time.Time
	StartedAt     *time.Time
	FinishedAt    *time.Time
}

// PolicyDetails is a row of scrim.masking_policies. Of Encoder, Model and Mask all are empty but one; Present is empty for an SQL mask.
type PolicyDetails struct {
	Name      string
	Relation  string
	Columns   []string
	Inputs    []string
	Encoder   string
	Model     string // with its version
	Present   string
	Mask      string
	Except    []string
	AlongWith *string
	CreatedBy string
	CreatedAt time.Time
}

// EncoderReport is what is known about one encoder, as of one moment.
type EncoderReport struct {
	Encoder  EncoderDetails
	Versions []VersionDetails // newest first
	Jobs     []TrainingJob    // newest first, twenty at most
	Figures  []Figure         // of the default version, in the order of scrim.encoder_report
}

// VersionDetails is a row of scrim.encoder_versions.
type VersionDetails struct {
	Version   int
	Active    bool
	SHA256    string
	Rows      int64
	Loss      float64
	CreatedAt time.Time
}

// Figure is a row of scrim.encoder_report. Value is nil where the sample cannot tell; Note says why.
type Figure struct {
	Kind    string
	Feature *string
	Measure string
	Value   *float64
	Note    *string
}

// ErrNoEncoder means that there is no encoder of that name.
var ErrNoEncoder = errors.New("there is no such encoder")

const (
	selectEncoders = `SELECT e.name, e.source_table, e.feature_columns, e.passthrough, e.latent_dims, e.epochs, e.batch_size, e.seed, e.device, e.max_leakage, e.target,
			e.version, (SELECT count(*) FROM scrim.encoder_versions v WHERE v.encoder = e.name), e.trained_on, e.loss,
			e.schedule, e.row_growth, e.next_training, e.created_by, e.created_at
		FROM scrim.encoders e`
	selectJobs = `SELECT j.id, j.encoder, j.state, j.attempt, j.max_attempts, j.step, j.epoch, j.epochs, j.loss, j.rows_per_second, extract(epoch FROM j.eta)::float8,
			j.version, j.code, j.error, j.hint, j.reason, j.requested_by, j.created_at, j.started_at, j.finished_at
		FROM scrim.training_jobs j`
)

// ReadOverview reads everything on the connection of a role that may (scrim_admin).
func ReadOverview(ctx context.Context, conn *pgx.Conn) (Overview, error) {
	var o Overview
	err := readAsRole(ctx, conn, func(tx pgx.Tx) (err error) {
		if o.Encoders, err = collect[EncoderDetails](ctx, tx, selectEncoders+` ORDER BY e.name`); err != nil {
			return err
		}
		if o.Jobs, err = collect[TrainingJob](ctx, tx, selectJobs+` ORDER BY j.id DESC LIMIT 100`); err != nil {
			return err
		}
		o.Policies, err = collect[PolicyDetails](ctx, tx, `SELECT p.name, p.relation::text, p.columns, p.inputs, coalesce(p.encoder, ''), coalesce(p.model || ' version ' || p.version, ''), coalesce(p.present, ''), coalesce(p.mask, ''), p.except_roles,
				p.along_with::text, p.created_by, p.created_at
			FROM scrim.masking_policies p ORDER BY 2, 1`)
		return err
	})
	return o, err
}

// ReadEncoderReport reads about one encoder on the connection of a role that may (scrim_admin). It fails with ErrNoEncoder.
func ReadEncoderReport(ctx context.Context, conn *pgx.Conn, name string) (EncoderReport, error) {
	var r EncoderReport
	err := readAsRole(ctx, conn, func(tx pgx.Tx) error {
		encoders, err := collect[EncoderDetails](ctx, tx, selectEncoders+` WHERE e.name = $1`, name)
		if err != nil {
			return err
		}
		if len(encoders) == 0 {
			return ErrNoEncoder
		}
		r.Encoder = encoders[0]
		if r.Versions, err = collect[VersionDetails](ctx, tx, `SELECT v.version, v.active IS TRUE, v.sha256, v.trained_on, v.loss, v.created_at
			FROM scrim.encoder_versions v WHERE v.encoder = $1 ORDER BY v.version DESC`, name); err != nil {
			return err
		}
		if r.Jobs, err = collect[TrainingJob](ctx, tx, selectJobs+` WHERE j.encoder = $1 ORDER BY j.id DESC LIMIT 20`, name); err != nil {
			return err
		}
		r.Figures, err = collect[Figure](ctx, tx, `SELECT kind, feature, measure, value, note FROM scrim.encoder_report($1)`, name)
		return err
	})
	return r, err
}

// readAsRole reads in one snapshot. The settings are those of the transaction: a pooler before the server need not know them.
func readAsRole(ctx context.Context, conn *pgx.Conn, read func(pgx.Tx) error) error {
	return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		for _, setting := range []string{`SET LOCAL search_path = pg_catalog, pg_temp`, `SET LOCAL statement_timeout = '10s'`} {
			if _, err := tx.Exec(ctx, setting); err != nil {
				return err
			}
		}
		return read(tx)
	})
}

func collect[T any](ctx context.Context, tx pgx.Tx, query string, args ...any) ([]T, error) {
	rows, err := tx.Query(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("read for the console: %w", err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[T])
	if err != nil {
		return nil, fmt.Errorf("read for the console: %w", err)
	}
	return out, nil
}
