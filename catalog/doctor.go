package catalog

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Finding is one thing that doctor has to say. Its JSON is for other programs to read: names and order of the keys stay.
type Finding struct {
	Severity string `json:"severity"` // error, warning or note
	Kind     string `json:"kind"`
	Relation string `json:"relation"` // "" for the whole server
	Object   string `json:"object"`
	Why      string `json:"why"`
	Path     string `json:"path"`   // of grants, memberships or views; "" where there is none
	Remedy   string `json:"remedy"` // statements that close it, or words where none does
}

// Severities of findings. An error is a way to raw values; a warning may become one, or has closed a mask; a note is to be known.
const (
	SeverityError   = "error"
	SeverityWarning = "warning"
	SeverityNote    = "note"
)

// Checkup is what the database says of itself.
type Checkup struct {
	Findings []Finding
	Encoders []Encoder     // the default versions of encoders, and all versions of models
	Ahead    time.Duration // of this machine's clock, by the server's
}

// Right is one thing that a role may do.
type Right struct{ Role, May string }

// Doctor reads catalogs only: to plan on a user's table would run its owner's code in this session.
func Doctor(ctx context.Context, conn *pgx.Conn) (Checkup, error) {
	var c Checkup
	if err := checkVersion(ctx, conn); err != nil && !isDenied(err) { // owners of tables may ask too, and cannot read it
		return c, err
	}
	rows, err := conn.Query(ctx, `SELECT severity, kind, relation, object, why, path, remedy FROM scrim.doctor()`)
	if err == nil {
		c.Findings, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Finding])
	}
	if err != nil {
		return c, fmt.Errorf("doctor: %w", err)
	}
	rows, err = conn.Query(ctx, `SELECT e.name, v.version, v.sha256, pg_catalog.cardinality(e.feature_columns), e.latent_dims, false
		FROM scrim.encoders e JOIN scrim.encoder_versions v ON v.encoder OPERATOR(pg_catalog.=) e.name AND v.active
		UNION ALL
		SELECT m.name, v.version, v.sha256, pg_catalog.cardinality(m.inputs), m.outputs, true
		FROM scrim.models m JOIN scrim.model_versions v ON v.model OPERATOR(pg_catalog.=) m.name ORDER BY 1, 2`)
	if err == nil {
		c.Encoders, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Encoder])
	}
	if err != nil {
		return c, fmt.Errorf("encoders: %w", err)
	}
	var there time.Time
	asked := time.Now()
	if err := conn.QueryRow(ctx, `SELECT pg_catalog.clock_timestamp()`).Scan(&there); err != nil {
		return c, fmt.Errorf("clock: %w", err)
	}
	answered := time.Now()
	c.Ahead = asked.Add(answered.Sub(asked) / 2).Sub(there)
	return c, nil
}

// Rights says what Scrim's roles may do in the database, role by role.
func Rights(ctx context.Context, conn *pgx.Conn) ([]Right, error) {
	rows, err := conn.Query(ctx, `SELECT role, may FROM scrim.rights()`)
	if err != nil {
		return nil, fmt.Errorf("rights: %w", err)
	}
	rights, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Right])
	if err != nil {
		return nil, fmt.Errorf("rights: %w", err)
	}
	slices.SortStableFunc(rights, func(a, b Right) int { return strings.Compare(a.Role, b.Role) })
	return rights, nil
}
