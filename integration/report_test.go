package integration_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// measured is a table with what the reports are about: b follows a, c is on its own, and the names and numbers passed through say
// something about each.
const measured = `CREATE TABLE measured AS
	SELECT i AS id, sin(i) * 100 AS a, sin(i)::numeric * 7 + cos(i * 7.3)::numeric / 10 AS b, CASE WHEN i % 50 <> 0 THEN i * 7919 % 1000 END AS c,
	       CASE WHEN sin(i) > 0 THEN 'high' WHEN i % 20 <> 0 THEN 'low' END AS name, i * 7919 % 1000 * 0.5 AS number, point(i, i) AS place
	  FROM generate_series(1, 2000) i`

// figures are the values of a report by kind, feature and measure, but the losses, of which it returns the number.
func figures(t *testing.T, conn *pgx.Conn, encoder string) (values map[string]float64, losses int) {
	t.Helper()
	rows, err := conn.Query(t.Context(), `SELECT kind, coalesce(feature, '') feature, measure, value FROM scrim.encoder_report($1)`, encoder)
	if err != nil {
		t.Fatal(err)
	}
	values = map[string]float64{}
	for rows.Next() {
		var kind, feature, measure string
		var value *float64
		if err := rows.Scan(&kind, &feature, &measure, &value); err != nil {
			t.Fatal(err)
		}
		switch key := strings.TrimSpace(feature + " " + measure); {
		case kind == "training":
			losses++
		case value == nil:
			t.Errorf("%s has no value", key)
		default:
			values[key] = *value
		}
	}
	if rows.Err() != nil {
		t.Fatal(explain(rows.Err()))
	}
	return values, losses
}

// TestEncoderReport: training leaves a report, which says what the table is made for, the same each time, to those who may read it.
func TestEncoderReport(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.trains(t)
		owner := e.connect(t, olga)
		create := func(name, with string) string {
			return fmt.Sprintf(`CREATE ENCODER %s ON measured (a, b, c) PASSTHROUGH (name, number, place) WITH (epochs = 30, batch_size = 64, %s) WAIT`, name, with)
		}
		e.exec(t, owner, measured, create("whole", `latent_dims = 3, target = name`), create("one", `latent_dims = 1, target = number`),
			create("again", `latent_dims = 1, target = number`))
		user, admin := extraRole(t, e, "scrim_user"), extraRole(t, e, "scrim_admin")
		reader := e.connect(t, admin)

		whole, losses := figures(t, reader, "whole")
		if losses != 30 {
			t.Errorf("%d losses of 30 epochs", losses)
		}
		for _, f := range []string{"a", "b", "c"} {
			if whole[f+" leakage"] < 0.95 || whole[f+" leakage_ridge"] == 0 || whole[f+" reconstruction_error"] > 0.1 {
				t.Errorf("%s with three dimensions: %v", f, whole)
			}
		}
		if whole["name accuracy_from_codes"] < 0.9 || whole["name accuracy_from_features"] < 0.9 || whole["neighbourhood_overlap"] < 0.5 || whole["sampled_rows"] != 2000 {
			t.Errorf("three dimensions: %v", whole)
		}
		one, _ := figures(t, reader, "one")
		// The curve that one dimension winds through the rows passes near each of them, so that neighbours tell what a line cannot.
		if one["a leakage"] < 0.8 || one["c leakage"] > 0.9 || one["c leakage_ridge"] > 0.4 || one["c leakage_neighbours"] != one["c leakage"] ||
			one["number r2_from_features"] < 0.95 || one["number r2_from_codes"] > 0.9 {
			t.Errorf("one dimension: %v", one)
		}
		report := `SELECT * FROM scrim.encoder_report('%s')`
		if a, b := mustText(t, reader, fmt.Sprintf(report, "one")), mustText(t, reader, fmt.Sprintf(report, "again")); a != b {
			t.Errorf("the same training has two reports:\n%s\n%s", a, b)
		}

		for _, c := range []struct{ role, statement, want string }{
			{user, `SELECT * FROM scrim.encoder_report('one')`, "42501"},
			{user, `SELECT * FROM scrim.training_jobs`, "42501"},
			{admin, `SELECT * FROM scrim.encoder_report('none')`, "42704"},
			{admin, `SELECT * FROM scrim_state.encoder_reports`, "42501"},
			{olga, create("e", `target = place`), "0A000"},
			{olga, create("e", `target = a`), "42703"},
		} {
			if _, err := text(t, e.connect(t, c.role), c.statement); code(err) != c.want {
				t.Errorf("%s: %s\ngot %v, want %s", c.role, c.statement, explain(err), c.want)
			}
		}
		learnt := `SELECT count(*) > 0, count(e.loss), count(e.trained_on), count(v.loss), count(v.trained_on), count(v.sha256) FROM scrim.encoders e JOIN scrim.encoder_versions v ON v.encoder = e.name`
		if got := mustText(t, e.connect(t, user), learnt); got != "t|0|0|0|0|0\n" {
			t.Errorf("a scrim_user sees what was learnt: %s", got)
		}
		e.exec(t, owner, `DROP ENCODER one`)
		if got := mustText(t, e.admin(t), `SELECT count(*) FROM scrim_state.encoder_reports r JOIN scrim_state.encoders e ON e.id = r.encoder_id`); got != "3\n" {
			t.Errorf("reports of enc, whole and again: %s", got)
		}
		if got := mustText(t, e.admin(t), `SELECT count(*) FROM scrim_state.encoder_reports`); got != "3\n" {
			t.Errorf("reports of enc, whole and again: %s", got)
		}
	})
}

// TestMaxLeakage: an encoder that leaks more than is allowed, or nobody knows how much, leaves no file and no row.
func TestMaxLeakage(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.trains(t)
		owner := e.connect(t, olga)
		e.exec(t, owner, measured, `CREATE TABLE few AS SELECT * FROM measured LIMIT 99`)
		create := `CREATE ENCODER %s ON %s (%s) WITH (latent_dims = %d, epochs = 30, batch_size = 64, max_leakage = 0.9) WAIT`
		name := "kept_back_" + e.database + "_" + e.name
		for _, c := range []struct{ table, columns, message string }{
			{"measured", "c, a", `the leakage of column "c" is `},
			{"few", "c, a", `the leakage of column "c" cannot be measured`},
		} {
			statement := fmt.Sprintf(create, name, c.table, c.columns, 2)
			_, err := text(t, owner, statement)
			var refusal *pgconn.PgError
			if !errors.As(err, &refusal) || refusal.Code != "22023" || !strings.HasPrefix(refusal.Message, c.message) || refusal.Hint == "" {
				t.Errorf("%s\ngot %v", statement, explain(err))
			}
		}
		if got := mustText(t, e.admin(t), `SELECT (SELECT count(*) FROM scrim_state.encoders), (SELECT count(*) FROM scrim_state.encoder_reports)`); got != "1|1\n" {
			t.Errorf("encoders and reports beside enc: %s", got)
		}
		if _, err := os.Stat(filepath.Join(e.models, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the folder of a refused encoder: %v", err)
		}
		// a and b leak in whatever is good for something; c alone can be lost.
		e.exec(t, owner, strings.Replace(fmt.Sprintf(create, name, "measured", "a, b, c", 1), "0.9", "1", 1))
		if _, err := os.Stat(filepath.Join(e.models, name)); err != nil {
			t.Error(err)
		}
	})
}
