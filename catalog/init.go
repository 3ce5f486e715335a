package catalog

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/scrimdb/scrim/sql"
)

// initLock serialises `scrim init` over all machines: an arbitrary number, the same for ever.
const initLock = 7_236_910_455_118_403

// ErrNewerSchema means that the database was initialised by a newer Scrim.
var ErrNewerSchema = errors.New("the scrim schemas in this database are newer than this program")

// ErrNotInitialised means that `scrim init` has not run on this database.
var ErrNotInitialised = errors.New("this database has no scrim schemas")

// ErrForeignObjects means that objects of another role stand where Scrim's must be. Drop them, or run init as that role.
var ErrForeignObjects = errors.New("objects in the scrim schemas belong to another role")

// ErrRestored means that the database was restored from a dump, or upgraded by pg_upgrade, and Init has not run since.
var ErrRestored = errors.New("this database was restored from a dump, or upgraded, and masking policies are not bound to it yet")

// InitResult says what Init did.
type InitResult struct {
	From, To int  // versions of schema scrim_state; From is 0 on a first run
	Opaque   bool // whether sealed values have a type of their own; false without superuser
	// Restored means that the database was restored from a dump. Masks that stay closed in it, and why, are in Closed.
	Restored bool
	Closed   []string
}

// Init installs or migrates the scrim schemas in the database of conn, all in one transaction under an advisory lock.
// It may be run again at any time. A newer schema gives ErrNewerSchema.
func Init(ctx context.Context, conn *pgx.Conn) (InitResult, error) {
	var result InitResult
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var err error
		result, err = initIn(ctx, tx)
		return err
	})
	if isDenied(err) {
		return InitResult{}, fmt.Errorf("%w: run it as a superuser, or as a role with CREATEROLE that owns the database", err)
	}
	if err != nil {
		return InitResult{}, err
	}
	return result, nil
}

// isDenied tells whether the server refused a privilege.
func isDenied(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == "42501"
}

func initIn(ctx context.Context, tx pgx.Tx) (InitResult, error) {
	var result InitResult
	if _, err := tx.Exec(ctx, `SET LOCAL search_path = pg_catalog, pg_temp`); err != nil {
		return result, err
	}
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(initLock)); err != nil {
		return result, err
	}
	if err := checkOwnership(ctx, tx); err != nil {
		return result, err
	}
	superuser := false
	if err := tx.QueryRow(ctx, `SELECT rolsuper FROM pg_roles WHERE rolname = current_user`).Scan(&superuser); err != nil {
		return result, err
	}
	if err := createRoles(ctx, tx); err != nil {
		return result, err
	}
	if superuser {
		if err := script(ctx, tx, "event triggers", `DROP EVENT TRIGGER IF EXISTS scrim_ddl; DROP EVENT TRIGGER IF EXISTS scrim_drop`); err != nil {
			return result, err
		}
	}
	runtime, err := sql.Runtime(superuser)
	if err != nil {
		return result, err
	}
	if err := script(ctx, tx, "runtime.sql", runtime); err != nil {
		return result, err
	}
	// Before the migrations: its views depend on their tables, and its triggers would audit what they do.
	if err := script(ctx, tx, "schema scrim", "DROP SCHEMA IF EXISTS scrim CASCADE"); err != nil {
		return result, err
	}
	if result.From, result.To, err = migrate(ctx, tx); err != nil {
		return result, err
	}
	functions, err := sql.Functions()
	if err != nil {
		return result, err
	}
	if err := script(ctx, tx, "schema scrim", functions); err != nil {
		return result, err
	}
	if err := rebind(ctx, tx, &result); err != nil {
		return result, err
	}
	err = tx.QueryRow(ctx, `SELECT typtype = 'b' FROM pg_type WHERE typname = 'sealed' AND typnamespace = 'scrim_runtime'::regnamespace`).Scan(&result.Opaque)
	return result, err
}

// rebind binds policies to a database that was restored from a dump.
func rebind(ctx context.Context, tx pgx.Tx, result *InitResult) error {
	if err := tx.QueryRow(ctx, `SELECT scrim.is_restored()`).Scan(&result.Restored); err != nil || !result.Restored {
		return err
	}
	rows, err := tx.Query(ctx, `SELECT * FROM scrim.rebind()`)
	if err == nil {
		result.Closed, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil {
		return fmt.Errorf("bind masking policies to a restored database: %w", err)
	}
	return nil
}

// checkOwnership refuses schemas that are not ours: who made them could have put triggers and functions of his own in
// them, to be run with our rights.
func checkOwnership(ctx context.Context, tx pgx.Tx) error {
	var foreign *string
	err := tx.QueryRow(ctx, `SELECT string_agg(x.what, ', ') FILTER (WHERE x.place <= 5) || CASE WHEN count(*) > 5 THEN format(', and %s more', count(*) - 5) ELSE '' END
		  FROM (SELECT what, row_number() OVER () FROM (
			SELECT format('schema %I of %s', n.nspname, n.nspowner::regrole) FROM pg_namespace n
			 WHERE n.nspname IN ('scrim', 'scrim_state', 'scrim_runtime') AND n.nspowner <> current_user::regrole
			UNION ALL
			SELECT format('function %s of %s', p.oid::regprocedure, p.proowner::regrole) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
			 WHERE n.nspname IN ('scrim', 'scrim_state', 'scrim_runtime') AND p.proowner <> current_user::regrole AND NOT EXISTS (
				SELECT 1 FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
			UNION ALL
			SELECT format('relation %s of %s', c.oid::regclass, c.relowner::regrole) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			 WHERE n.nspname IN ('scrim', 'scrim_state') AND c.relowner <> current_user::regrole AND c.relkind NOT IN ('i', 't')
			) every(what)) x(what, place)`).Scan(&foreign)
	if err != nil {
		return err
	}
	if foreign != nil {
		return fmt.Errorf("%w: %s", ErrForeignObjects, *foreign)
	}
	return nil
}

// createRoles makes the two group roles. They belong to the whole cluster, so they may be there from another database.
func createRoles(ctx context.Context, tx pgx.Tx) error {
	return script(ctx, tx, "roles", `DO $$ BEGIN
		IF to_regrole('scrim_user') IS NULL THEN CREATE ROLE scrim_user NOLOGIN; END IF;
		IF to_regrole('scrim_admin') IS NULL THEN CREATE ROLE scrim_admin NOLOGIN; GRANT scrim_user TO scrim_admin; END IF;
	END $$`)
}

func migrate(ctx context.Context, tx pgx.Tx) (from, to int, err error) {
	migrations, err := sql.Migrations()
	if err != nil {
		return 0, 0, err
	}
	to = len(migrations)
	err = script(ctx, tx, "schema scrim_state", `CREATE SCHEMA IF NOT EXISTS scrim_state;
		CREATE TABLE IF NOT EXISTS scrim_state.migrations (
			version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())`)
	if err != nil {
		return 0, 0, err
	}
	if err := tx.QueryRow(ctx, `SELECT coalesce(max(version), 0) FROM scrim_state.migrations`).Scan(&from); err != nil {
		return 0, 0, err
	}
	if from > to {
		return 0, 0, fmt.Errorf("%w: schema version %d, program knows %d", ErrNewerSchema, from, to)
	}
	for _, m := range migrations[from:] {
		if err := script(ctx, tx, m.Name, m.SQL); err != nil {
			return 0, 0, err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO scrim_state.migrations (version, name) VALUES ($1, $2)`, m.Version, m.Name); err != nil {
			return 0, 0, err
		}
	}
	return from, to, nil
}

// script runs several statements at once; the simple protocol takes them all in one message.
func script(ctx context.Context, tx pgx.Tx, name, text string) error {
	_, err := tx.Conn().PgConn().Exec(ctx, text).ReadAll()
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) && pgErr.Position > 0 {
		return fmt.Errorf("%s, at byte %d: %w", name, pgErr.Position, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// checkVersion refuses a database that this program cannot serve.
func checkVersion(ctx context.Context, q querier) error {
	migrations, err := sql.Migrations()
	if err != nil {
		return err
	}
	var there bool
	if err := q.QueryRow(ctx, `SELECT pg_catalog.to_regclass('scrim_state.migrations') IS NOT NULL`).Scan(&there); err != nil {
		return fmt.Errorf("catalog: %w", err)
	}
	if !there {
		return fmt.Errorf("%w: run `scrim init --catalog DSN` first", ErrNotInitialised)
	}
	var version int
	err = q.QueryRow(ctx, `SELECT pg_catalog.max(version) FROM scrim_state.migrations`).Scan(&version)
	if isDenied(err) {
		return fmt.Errorf("catalog: %w: connect as the role that ran scrim init", err)
	}
	if err != nil {
		return fmt.Errorf("catalog: %w", err)
	}
	switch {
	case version > len(migrations):
		return fmt.Errorf("%w: schema version %d, program knows %d", ErrNewerSchema, version, len(migrations))
	case version < len(migrations):
		return fmt.Errorf("schema version %d is older than this program's %d: run `scrim init --catalog DSN`", version, len(migrations))
	}
	return checkHome(ctx, q)
}

// checkHome refuses a database that was restored, until Init has run.
func checkHome(ctx context.Context, q querier) error {
	var restored bool
	if err := q.QueryRow(ctx, `SELECT scrim.is_restored()`).Scan(&restored); err != nil {
		return fmt.Errorf("catalog: %w", err)
	}
	if restored {
		return fmt.Errorf("%w: run `scrim init --catalog DSN`", ErrRestored)
	}
	return nil
}
