package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/scrimdb/scrim/rewrite"
	"github.com/scrimdb/scrim/udf/report"
	"github.com/scrimdb/scrim/udf/train"
)

func showQuery(cmd rewrite.Command) string {
	show, _ := cmd.(rewrite.Show)
	return show.Query
}

// command runs one of Scrim's own statements on the client's connection: in its transaction, with its rights.
func (f *frontend) command(ctx context.Context, st *statement, simple bool) error {
	if show, ok := st.command.(rewrite.Show); ok { // in the simple protocol; the extended one prepared it like any query
		return f.send(&pgproto3.Query{String: show.Query}, &pending{kind: 'Q', results: &results{tag: show.Tag()}})
	}
	// Let everything before it be answered first: from here on the client's answers are ours to write.
	if ok, err := f.answered(); !ok {
		return err // or the server is skipping to the next Sync, and so is this
	}
	err := f.action(ctx, st.command)
	var server *serverError
	switch {
	case err == nil:
		f.s.changedCatalog.Store(true)
		f.s.queue.drain() // notices of the last question go first
		_, err = f.s.client.Write(encode(&pgproto3.CommandComplete{CommandTag: []byte(st.command.Tag())}))
		if err != nil {
			return errClientGone
		}
	case errors.As(err, &server):
		if err := f.passError(server); err != nil {
			return err
		}
	case errors.Is(err, errSkipped), errors.Is(err, errUpstreamGone), errors.Is(err, errClientGone):
		return err
	default:
		if err := f.refuse('P', err, st.Text); err != nil {
			return err
		}
	}
	if simple {
		return f.send(&pgproto3.Sync{}, &pending{kind: 'S'})
	}
	return nil
}

// action runs a command as statements of the client's. It can be cancelled.
func (f *frontend) action(ctx context.Context, cmd rewrite.Command) error {
	ctx, done := f.s.cancellable(ctx)
	defer done()
	switch c := cmd.(type) {
	case rewrite.CreateEncoder:
		return f.createEncoder(ctx, c)
	case rewrite.DropEncoder:
		return f.s.ask(ctx, false, `SELECT scrim.drop_encoder($1, $2, $3)`, []string{c.Name, boolean(c.IfExists), boolean(c.Cascade)}, nil)
	case rewrite.CreateFeatureView:
		return f.s.ask(ctx, false, `SELECT scrim.create_feature_view($1, $2, $3)`, []string{c.Name, c.Encoder, boolean(c.IfNotExists)}, nil)
	case rewrite.DropFeatureView:
		return f.s.ask(ctx, false, `SELECT scrim.drop_feature_view($1, $2, $3)`, []string{c.Name, boolean(c.IfExists), boolean(c.Cascade)}, nil)
	case rewrite.CreateMaskingPolicy:
		return f.createMaskingPolicy(ctx, c)
	case rewrite.DropMaskingPolicy:
		return f.s.ask(ctx, false, `SELECT scrim.drop_masking_policy($1, $2::pg_catalog.text::pg_catalog.regclass, $3)`,
			[]string{c.Name, c.Table, boolean(c.IfExists)}, nil)
	case rewrite.RotateKey:
		return f.s.ask(ctx, false, `SELECT scrim.rotate_key($1, $2::pg_catalog.text::pg_catalog.regclass)`, []string{c.Name, c.Table}, nil)
	}
	return &Error{Code: codeFeatureNotSupported, Message: cmd.Tag() + " is not supported yet"}
}

func boolean(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

func (f *frontend) createMaskingPolicy(ctx context.Context, c rewrite.CreateMaskingPolicy) error {
	return f.s.ask(ctx, false,
		`SELECT scrim.create_masking_policy($1, $2::pg_catalog.text::pg_catalog.regclass, $3, $4, $5,
			NULLIF($6::pg_catalog.text[], '{}'), NULLIF($7::pg_catalog.text, ''), $8, $9)`,
		[]string{c.Name, c.Table, textArray(c.Columns), textArray(c.Except), c.Encoder, textArray(c.Inputs), c.Present, boolean(c.IfNotExists), boolean(c.Cascade)}, nil)
}

// createEncoder reads the features under the client's rights, trains, publishes the file, and registers it in the
// client's transaction.
func (f *frontend) createEncoder(ctx context.Context, c rewrite.CreateEncoder) error {
	if c.IfNotExists {
		exists := false
		err := f.s.ask(ctx, false, `SELECT 1 FROM scrim.encoders WHERE name OPERATOR(pg_catalog.=) $1`, []string{c.Name},
			func([]cell) error { exists = true; return nil })
		if err != nil {
			return err
		}
		if exists {
			return f.notice("encoder %q already exists, skipping", c.Name)
		}
	}
	if err := f.s.ask(ctx, false, `SELECT scrim.check_new_encoder($1)`, []string{c.Name}, nil); err != nil {
		return err
	}
	cfg := train.Config{Features: c.Columns, LatentDims: c.LatentDims, Epochs: c.Epochs, BatchSize: c.BatchSize, Seed: c.Seed}
	if err := cfg.Validate(); err != nil {
		return err
	}
	err := f.s.ask(ctx, false, `SELECT scrim.check_passthrough($1::pg_catalog.text::pg_catalog.regclass, $2, $3, $4)`,
		[]string{c.Table, textArray(c.Columns), textArray(c.Passthrough), boolean(c.AllowIdentifiers)}, nil)
	if err != nil {
		return err
	}
	data, target, err := f.readFeatures(ctx, c)
	if err != nil {
		return err
	}
	result, err := f.train(ctx, cfg, data)
	if err != nil {
		return err
	}
	made, err := report.Of(ctx, cfg.Features, data, result, target)
	if err != nil {
		return context.Cause(ctx) // it was cancelled
	}
	if c.MaxLeakage > 0 {
		if err := made.Check(c.MaxLeakage); err != nil {
			return err
		}
	}
	figures, err := made.JSON()
	if err != nil {
		return err
	}
	const firstVersion = 1
	hash, err := f.s.srv.library.Store().Publish(c.Name, firstVersion, result.Model)
	if err != nil {
		return err
	}
	err = f.s.ask(ctx, false,
		`SELECT scrim.register_encoder($1, $2::pg_catalog.text::pg_catalog.regclass, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
		[]string{
			c.Name, c.Table, textArray(c.Columns), textArray(c.Passthrough), fmt.Sprint(c.LatentDims), fmt.Sprint(c.Epochs),
			fmt.Sprint(c.BatchSize), fmt.Sprint(c.Seed), hash, fmt.Sprint(result.Rows), fmt.Sprint(result.Loss),
		}, nil)
	if err != nil {
		return err
	}
	return f.s.ask(ctx, false, `SELECT scrim.register_report($1, $2, $3)`, []string{c.Name, fmt.Sprint(firstVersion), figures}, nil)
}

// maxTrainingValues bounds the memory of one training: 1 GiB of features.
const maxTrainingValues = 1 << 27

// readFeatures streams the training rows into memory: 8 bytes for each feature of each row, and for the target if
// there is one.
func (f *frontend) readFeatures(ctx context.Context, c rewrite.CreateEncoder) (*train.Data, *report.Target, error) {
	var query string
	var labels bool
	err := f.s.ask(ctx, false,
		`SELECT scrim.feature_query(t, $2, NULLIF($3::pg_catalog.text, '')), coalesce(scrim.is_label(t, $3), false)
		   FROM CAST($1::pg_catalog.text AS pg_catalog.regclass) t`,
		[]string{c.Table, textArray(c.Columns), c.Target},
		func(cells []cell) error {
			query, labels = string(cells[0]), cells[1][0] == 1
			return nil
		})
	if err != nil {
		return nil, nil, err
	}
	data := train.NewData(len(c.Columns))
	var target *report.Target
	if c.Target != "" {
		target = &report.Target{Name: c.Target, Labels: labels}
	}
	row := make([]float64, len(c.Columns))
	err = f.s.ask(ctx, false, query, nil, func(cells []cell) error {
		row = row[:0]
		for i, v := range cells {
			number := math.NaN() // NULL
			switch len(v) {
			case 0:
			case 8:
				number = math.Float64frombits(binary.BigEndian.Uint64(v))
			default:
				return errors.New("unexpected feature format")
			}
			if i < len(c.Columns) {
				row = append(row, number)
			} else {
				target.Values = append(target.Values, number)
			}
		}
		if data.Rows() >= maxTrainingValues/len(c.Columns) {
			return &Error{
				Code: "54000", Message: fmt.Sprintf("table %s has too many rows to train on", c.Table),
				Hint: fmt.Sprintf("At most %d values are held in memory in this version: train on a view or copy with fewer rows.", maxTrainingValues),
			}
		}
		return data.Append(row)
	})
	return data, target, err
}

// train runs the training and tells the client how it goes, about once a second.
func (f *frontend) train(ctx context.Context, cfg train.Config, data *train.Data) (train.Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	started, last := time.Now(), time.Time{}
	result, err := train.Run(ctx, f.s.srv.library.Runtime(), cfg, data, func(p train.Progress) {
		if time.Since(last) < time.Second && p.Epoch < p.Epochs {
			return
		}
		last = time.Now()
		const width = 20
		done := width * p.Epoch / p.Epochs
		bar := strings.Repeat("#", done) + strings.Repeat(".", width-done)
		if err := f.notice("training [%s] epoch %d/%d  loss %.4f  %.0f rows/s  %s left",
			bar, p.Epoch, p.Epochs, p.Loss, p.RowsPerSecond, p.ETA.Round(time.Second)); err != nil {
			cancel(err) // nobody is waiting for it any more
		}
	})
	if err != nil {
		if ctx.Err() != nil {
			return result, context.Cause(ctx)
		}
		return result, err
	}
	for i, n := range result.Nulls {
		if n > 0 {
			if err := f.notice("column %q: %d of %d values are missing and were taken as the mean", cfg.Features[i], n, result.Rows); err != nil {
				return result, err
			}
		}
	}
	for _, w := range result.Warnings {
		if err := f.warn("%s", w); err != nil {
			return result, err
		}
	}
	return result, f.notice("trained on %d rows in %s", result.Rows, time.Since(started).Round(time.Millisecond))
}

// notice tells the client something while it waits. Only an action may: the queue is drained then.
func (f *frontend) notice(format string, args ...any) error {
	return f.tell("NOTICE", "00000", fmt.Sprintf(format, args...))
}

// warn is notice of what the client should look at.
func (f *frontend) warn(format string, args ...any) error {
	return f.tell("WARNING", "01000", fmt.Sprintf(format, args...))
}

func (f *frontend) tell(severity, code, message string) error {
	msg := pgproto3.NoticeResponse{Severity: severity, SeverityUnlocalized: severity, Code: code, Message: message}
	if _, err := f.s.client.Write(encode(&msg)); err != nil {
		return errClientGone
	}
	return nil
}
