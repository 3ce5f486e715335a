package proxy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/scrimdb/scrim/rewrite"
)

// queryOf is the query that a command is, empty if it is none.
func queryOf(cmd rewrite.Command) string {
	q, _ := cmd.(rewrite.Query)
	return q.SQL
}

// command runs one of Scrim's own statements on the client's connection: in its transaction, with its rights.
func (f *frontend) command(ctx context.Context, st *statement, simple bool) error {
	if q, ok := st.command.(rewrite.Query); ok { // in the simple protocol; the extended one prepared it like any query
		return f.send(&pgproto3.Query{String: q.SQL}, &pending{kind: 'Q', results: &results{tag: q.Tag()}})
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
		if err := f.passError(server.inCommand(st.Text, st.command), "", st.command); err != nil {
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
	case rewrite.Wait:
		return f.wait(ctx, c)
	case rewrite.CancelTraining:
		return f.s.ask(ctx, false, `SELECT scrim.cancel_training_job($1)`, []string{fmt.Sprint(c.Job)}, nil)
	case rewrite.ScheduleTraining:
		return f.s.ask(ctx, false, `SELECT scrim.schedule_training($1, NULLIF($2::pg_catalog.text, ''), NULLIF($3::pg_catalog.int8, 0))`,
			[]string{c.Name, c.Schedule, fmt.Sprint(c.RowGrowth)}, nil)
	case rewrite.DropEncoder:
		return f.s.ask(ctx, false, `SELECT scrim.drop_encoder($1, $2, $3)`, []string{c.Name, boolean(c.IfExists), boolean(c.Cascade)}, nil)
	case rewrite.SetDefaultVersion:
		return f.setDefaultVersion(ctx, c)
	case rewrite.CreateFeatureView:
		return f.s.ask(ctx, false, `SELECT scrim.create_feature_view($1, $2, $3)`, []string{c.Name, c.Encoder, boolean(c.IfNotExists)}, nil)
	case rewrite.DropFeatureView:
		return f.s.ask(ctx, false, `SELECT scrim.drop_feature_view($1, $2, $3)`, []string{c.Name, boolean(c.IfExists), boolean(c.Cascade)}, nil)
	case rewrite.ImportModel:
		return f.importModel(ctx, c)
	case rewrite.DropModelVersion:
		return f.s.ask(ctx, false, `SELECT scrim.drop_model_version($1, $2)`, []string{c.Name, fmt.Sprint(c.Version)}, nil)
	case rewrite.DropModel:
		return f.s.ask(ctx, false, `SELECT scrim.drop_model($1, $2, $3)`, []string{c.Name, boolean(c.IfExists), boolean(c.Cascade)}, nil)
	case rewrite.CreateMaskingPolicy:
		return f.createMaskingPolicy(ctx, c)
	case rewrite.DefineMaskingPolicy, rewrite.SetColumnMask, rewrite.UnsetColumnMask, rewrite.DropMaskDefinition, rewrite.SetMaskBody:
		return f.defined(ctx, c)
	case rewrite.DropMaskingPolicy:
		return f.alterTable(ctx, c.Table, c.IfExists, `scrim.drop_masking_policy($2, t.relation, $3)`, c.Name, boolean(c.IfExists))
	case rewrite.RenamePolicy:
		return f.s.ask(ctx, false, `SELECT scrim.rename_masking_policy($1, $2::pg_catalog.text::pg_catalog.regclass, $3)`, []string{c.Name, c.Table, c.To}, nil)
	case rewrite.EnablePolicy:
		return f.s.ask(ctx, false, `SELECT scrim.enable_masking_policy($1, $2::pg_catalog.text::pg_catalog.regclass, $3)`,
			[]string{c.Name, c.Table, boolean(c.Enable)}, nil)
	case rewrite.ExceptPolicy:
		return f.s.ask(ctx, false, `SELECT scrim.set_masking_policy_except($1, $2::pg_catalog.text::pg_catalog.regclass, $3)`,
			[]string{c.Name, c.Table, textArray(c.Except)}, nil)
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
	if c.Expression.Text != "" {
		return f.s.ask(ctx, false, `SELECT scrim.create_sql_masking_policy($1, $2::pg_catalog.text::pg_catalog.regclass, $3, $4, $5,
				NULLIF($6::pg_catalog.text, ''), $7, $8, $9)`,
			[]string{
				c.Name, c.Table, textArray(c.Columns), textArray(c.Except), c.Expression.Text, c.Condition.Text,
				boolean(c.IfNotExists), boolean(c.Cascade), boolean(c.OrReplace),
			}, nil)
	}
	if c.Model != "" {
		return f.s.ask(ctx, false, `SELECT scrim.create_model_masking_policy($1, $2::pg_catalog.text::pg_catalog.regclass, $3, $4, $5, NULLIF($6::pg_catalog.int4, 0), $7,
				NULLIF($8::pg_catalog.text, ''), $9, $10, $11)`,
			[]string{
				c.Name, c.Table, textArray(c.Columns), textArray(c.Except), c.Model, fmt.Sprint(c.ModelVersion), textArray(c.Inputs), c.Present,
				boolean(c.IfNotExists), boolean(c.Cascade), boolean(c.OrReplace),
			}, nil)
	}
	return f.s.ask(ctx, false,
		`SELECT scrim.create_masking_policy($1, $2::pg_catalog.text::pg_catalog.regclass, $3, $4, $5,
			NULLIF($6::pg_catalog.text[], '{}'), NULLIF($7::pg_catalog.text, ''), $8, $9, $10)`,
		[]string{
			c.Name, c.Table, textArray(c.Columns), textArray(c.Except), c.Encoder, textArray(c.Inputs), c.Present,
			boolean(c.IfNotExists), boolean(c.Cascade), boolean(c.OrReplace),
		}, nil)
}

// defined runs the statements about policies that are defined apart from tables.
func (f *frontend) defined(ctx context.Context, cmd rewrite.Command) error {
	switch c := cmd.(type) {
	case rewrite.DefineMaskingPolicy:
		return f.s.ask(ctx, false, `SELECT scrim.define_masking_policy($1, $2, $3, $4, $5, $6, $7)`,
			[]string{c.Name, textArray(c.Arguments), textArray(c.Types), c.Returns, c.Expression.Text, boolean(c.IfNotExists), boolean(c.OrReplace)}, nil)
	case rewrite.DropMaskDefinition:
		return f.s.ask(ctx, false, `SELECT scrim.drop_masking_policy_definition($1, $2)`, []string{c.Name, boolean(c.IfExists)}, nil)
	case rewrite.SetMaskBody:
		return f.s.ask(ctx, false, `SELECT scrim.set_masking_policy_body($1, $2)`, []string{c.Name, c.Expression.Text}, nil)
	case rewrite.SetColumnMask:
		return f.alterTable(ctx, c.Table, c.IfExists, `scrim.set_column_masking_policy(t.relation, $2, $3, NULLIF($4::pg_catalog.text[], '{}'), $5)`,
			c.Column, c.Policy, textArray(c.Using), boolean(c.Force))
	case rewrite.UnsetColumnMask:
		return f.alterTable(ctx, c.Table, c.IfExists, `scrim.unset_column_masking_policy(t.relation, $2)`, c.Column)
	}
	return &Error{Code: codeFeatureNotSupported, Message: cmd.Tag() + " is not supported yet"}
}

// alterTable calls a function on a table, as t.relation. With IF EXISTS there need not be one.
func (f *frontend) alterTable(ctx context.Context, table string, ifExists bool, call string, params ...string) error {
	relation, found := "$1::pg_catalog.text::pg_catalog.regclass", false
	if ifExists {
		relation = "pg_catalog.to_regclass($1::pg_catalog.text)"
	}
	err := f.s.ask(ctx, false, `SELECT `+call+` FROM (SELECT `+relation+` AS relation OFFSET 0) AS t WHERE t.relation IS NOT NULL`, append([]string{table}, params...),
		func([]cell) error { found = true; return nil })
	if err == nil && !found {
		err = f.notice("relation \"%s\" does not exist, skipping", table)
	}
	return err
}

// wait starts a training and tells the client how it goes, about once a second. The job is everybody's: it goes on when the client has
// gone, and ends when the client cancels the statement.
func (f *frontend) wait(ctx context.Context, c rewrite.Wait) error {
	if f.s.txStatus() == 'T' || f.ran {
		return &Error{Code: "25001", Message: c.Tag() + " ... WAIT cannot run inside a transaction block", Hint: "Without WAIT it gives the number of a job that starts at COMMIT."}
	}
	job := ""
	err := f.askAlone(ctx, `SELECT job::pg_catalog.text FROM (`+c.SQL+`) AS started`, nil, func(cells []cell) error {
		job = string(cells[0])
		return nil
	})
	if err != nil || job == "" { // IF NOT EXISTS
		return err
	}
	err = f.follow(ctx, job)
	var asked *Error // else the session is ended
	if errors.As(context.Cause(ctx), &asked) && !errors.Is(err, errUpstreamGone) && !errors.Is(err, errClientGone) {
		ending, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer done()
		if f.askAlone(ending, `SELECT scrim.cancel_training_job($1)`, []string{job}, nil) == nil {
			_ = f.follow(ending, job) // until it has stopped; or it had just ended
		}
	}
	return err
}

// follow tells the client of a training until it has ended.
func (f *frontend) follow(ctx context.Context, job string) error {
	began, told, waiting := time.Now(), time.Time{}, false
	for last := 0; ; {
		t, err := f.lookAtTraining(ctx, job)
		switch {
		case err != nil:
			return err
		case t.State == "completed", t.State == "failed", t.State == "cancelled":
			return f.trainingEnded(t)
		case t.State == "queued" && !waiting && time.Since(began) > 3*time.Second:
			waiting = true
			err = f.notice("training job %s waits for a worker: another encoder is being trained, or none is running", job)
		case t.Epoch != last && time.Since(told) >= time.Second:
			last, told = t.Epoch, time.Now()
			err = f.notice("%s", t.bar())
		}
		if err != nil {
			return err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// askAlone asks in a transaction of its own. What the server refuses comes back as an error of ours: the server is not skipping.
func (f *frontend) askAlone(ctx context.Context, sql string, params []string, row func([]cell) error) error {
	err := f.s.ask(ctx, true, sql, params, row)
	var server *serverError
	if !errors.As(err, &server) {
		return err
	}
	var r pgproto3.ErrorResponse
	if err := r.Decode(server.message[headerSize:]); err != nil {
		return err
	}
	return &Error{Code: r.Code, Message: r.Message, Detail: r.Detail, Hint: r.Hint}
}

// training is what scrim.training_jobs says of a job.
type training struct {
	State         string  `json:"state"`
	Epoch         int     `json:"epoch"`
	Epochs        int     `json:"epochs"`
	Loss          float64 `json:"loss"`
	RowsPerSecond float64 `json:"rows_per_second"`
	Seconds       float64 `json:"seconds"`
	Code          string  `json:"code"`
	Error         string  `json:"error"`
	Hint          string  `json:"hint"`
	Notices       []struct {
		Warning bool   `json:"warning"`
		Message string `json:"message"`
	} `json:"notices"`
}

func (f *frontend) lookAtTraining(ctx context.Context, job string) (t training, err error) {
	err = f.askAlone(ctx, `SELECT pg_catalog.row_to_json(t)::pg_catalog.text FROM (
			SELECT j.state, j.epoch, j.epochs, j.loss, j.rows_per_second, extract(epoch FROM j.eta) AS seconds, j.code, j.error, j.hint, j.notices
			  FROM scrim.training_jobs j WHERE j.id OPERATOR(pg_catalog.=) $1) t`, []string{job},
		func(cells []cell) error { return json.Unmarshal(cells[0], &t) })
	if err == nil && t.State == "" {
		err = &Error{Code: "57014", Message: "training job " + job + " is gone"}
	}
	return t, err
}

func (t training) bar() string {
	const width = 20
	done := width * t.Epoch / max(t.Epochs, 1)
	left := time.Duration(t.Seconds * float64(time.Second)).Round(time.Second)
	return fmt.Sprintf("training [%s%s] epoch %d/%d  loss %.4f  %.0f rows/s  %s left",
		strings.Repeat("#", done), strings.Repeat(".", width-done), t.Epoch, t.Epochs, t.Loss, t.RowsPerSecond, left)
}

// trainingEnded tells what came of it.
func (f *frontend) trainingEnded(t training) error {
	switch t.State {
	case "cancelled":
		return &Error{Code: "57014", Message: "the training was cancelled"}
	case "failed":
		return &Error{Code: cmp.Or(t.Code, codeInternal), Message: cmp.Or(t.Error, "the training failed"), Hint: t.Hint}
	}
	if err := f.notice("%s", t.bar()); err != nil {
		return err
	}
	for _, n := range t.Notices {
		say := f.notice
		if n.Warning {
			say = f.warn
		}
		if err := say("%s", n.Message); err != nil {
			return err
		}
	}
	return nil
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
