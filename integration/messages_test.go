package integration_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// TestMessages: what people hear who mistype a statement of ours, or lack a right. The place is that in their own text, and nothing is
// said of functions that run it. In the wanted text it is marked by a pipe.
func TestMessages(t *testing.T) {
	onEachProtected(t, func(t *testing.T, e *env) {
		owner, reader := e.connect(t, olga), e.connect(t, analyst)
		e.exec(t, owner, `CREATE MASKING POLICY notes ON customers ("Note") USING (partial("Note", 1, '*', 1))`,
			`CREATE MASKING POLICY mask AS (v varchar) RETURNS varchar -> '***'`)
		const names = `HINT: Masks look for names in pg_catalog and scrim only: write the schema of others, and cast arguments to the types of parameters.`
		const row = `HINT: A mask is an expression over the row: columns stand in it without their table, and subqueries are not allowed.`
		for _, c := range []struct{ statement, want string }{
			{`CREATE MASKING POLICY m ON customers (vip) /* ä */ USING (|nosuch(region))`, "42883: function nosuch(text) does not exist\n" + names},
			{`CREATE MASKING POLICY m ON customers (vip) USING (NULL) WHEN (region = 'ä' AND |nosuch(region))`, "42883: function nosuch(text) does not exist\n" + names},
			{`CREATE MASKING POLICY m ON customers (vip) USING ((SELECT true FROM |orders))`, "42P01: relation \"orders\" does not exist\n" + row},
			{`CREATE MASKING POLICY m ON customers (vip) USING (|customers.vip)`, "42P01: missing FROM-clause entry for table \"customers\"\n" + row},
			{`CREATE MASKING POLICY m ON customers (vip) USING (|vipp)`, "42703: column \"vipp\" does not exist\nHINT: Perhaps you meant to reference the column \"t.vip\"."},
			{`CREATE MASKING POLICY m ON customers (vip) USING (|'x')`, "22P02: invalid input syntax for type boolean: \"x\""},
			{`CREATE MASKING POLICY m AS (v text) RETURNS text -> |iff(v = 'x', v, NULL)`, "42883: function iff(boolean, text, unknown) does not exist\n" + names},
			{`ALTER MASKING POLICY mask SET BODY -> |sha2(v)`, "42883: function sha2(character varying) does not exist\n" + names},
			{
				`CREATE MASKING POLICY m AS (v number) RETURNS number -> NULL`,
				"42704: type number does not exist\nHINT: Types are PostgreSQL's: text for STRING, numeric for NUMBER, timestamp for TIMESTAMP_NTZ. Those of other schemas have their schema before them.",
			},
			{
				`ALTER TABLE customers ALTER COLUMN region SET MASKING POLICY mask`,
				"42804: argument \"v\" of masking policy \"mask\" is of type character varying, but column \"region\" is of type text\nHINT: Define another policy for columns of type text.",
			},
			{`CREATE MASKING POLICY m ON nosuch (a) USING (NULL)`, "42P01: relation \"nosuch\" does not exist"},
			{`DROP MASKING POLICY p ON nosuch`, "42P01: relation \"nosuch\" does not exist"},
			{`DROP MASKING POLICY notes`, "42704: masking policy \"notes\" does not exist\nHINT: The one on public.customers is of that table alone, and is named with it: notes ON public.customers."},
		} {
			for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeDescribeExec} {
				_, err := owner.Exec(t.Context(), strings.Replace(c.statement, "|", "", 1), mode)
				said(t, c.statement, err, c.want)
			}
		}
		_, err := text(t, e.connect(t, risk), `DROP MASKING POLICY p ON customers`)
		said(t, `DROP MASKING POLICY p ON customers`, err, "42501: permission denied for masking policies\nHINT: GRANT scrim_admin TO risk lets this role manage policies on tables it owns.")
		_, err = text(t, reader, `SHOW MASKING POLICIES`)
		said(t, `SHOW MASKING POLICIES`, err, "42501: permission denied for view masking_policies\nHINT: GRANT scrim_user TO analyst lets this role list what is there, scrim_admin also training jobs.")

		listener, heard := e.listening(t, e.dsn(olga))
		e.exec(t, listener, `DROP MASKING POLICY IF EXISTS p ON nosuch`)
		if got := heard(); got != "NOTICE: relation \"nosuch\" does not exist, skipping\n\n" {
			t.Errorf("IF EXISTS: %q", got)
		}

		// Who has no right on the table hears of the table, not of a view of Scrim's.
		e.exec(t, owner, `REVOKE ALL ON customers FROM analyst`, `CREATE OR REPLACE MASKING POLICY notes ON customers ("Note") USING (NULL)`)
		_, err = text(t, e.connect(t, analyst), `SELECT "Note" FROM customers`)
		said(t, `SELECT "Note" FROM customers`, err, "42501: permission denied for table customers")
	})
}

// said compares an error with its SQLSTATE, message and hint, and its place with that of the pipe in the statement.
func said(t *testing.T, statement string, err error, want string) {
	t.Helper()
	var pgErr *pgconn.PgError
	if !asError(err, &pgErr) {
		t.Errorf("%s: %v", statement, err)
		return
	}
	got := pgErr.Code + ": " + pgErr.Message
	if pgErr.Hint != "" {
		got += "\nHINT: " + pgErr.Hint
	}
	if got != want {
		t.Errorf("%s:\n%s\nwant\n%s", statement, got, want)
	}
	at := 0
	if before, _, found := strings.Cut(statement, "|"); found {
		at = utf8.RuneCountInString(before) + 1
	}
	if int(pgErr.Position) != at || pgErr.InternalQuery != "" || pgErr.Where != "" && !strings.HasPrefix(statement, "SELECT") {
		t.Errorf("%s: position %d, want %d; query %q, context %q", statement, pgErr.Position, at, pgErr.InternalQuery, pgErr.Where)
	}
}
