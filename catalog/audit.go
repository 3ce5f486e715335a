package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// AuditLevel says what is audited. Changes are written by the database itself (sql/functions/070_audit.sql), the rest by proxies.
type AuditLevel string

// The levels that scrim.set_audit takes.
const (
	AuditOff     AuditLevel = "off"
	AuditChanges AuditLevel = "changes"
	AuditAll     AuditLevel = "all" // and what is refused, and read through masks
)

// Kinds of entries that proxies write.
const (
	AuditRefused = "refused"
	AuditRead    = "read"
	AuditLost    = "lost" // Rows is how many entries there was no room for
)

// AuditEntry is a line of the audit. Nothing in it is of a row, a literal or a parameter.
type AuditEntry struct {
	At          time.Time         `json:"-"`
	Kind        string            `json:"kind"`
	Role        string            `json:"role,omitempty"`
	Client      string            `json:"client,omitempty"`
	Application string            `json:"application,omitempty"`
	Tag         string            `json:"tag,omitempty"`
	Schema      string            `json:"schema,omitempty"`
	Relation    string            `json:"relation,omitempty"`
	RelationOID uint32            `json:"relation_oid,omitempty"`
	Columns     []string          `json:"columns,omitempty"`
	Rows        *int64            `json:"rows,omitempty"`
	Fingerprint string            `json:"fingerprint,omitempty"`
	SQLState    string            `json:"sqlstate,omitempty"`
	Details     map[string]string `json:"details,omitempty"`
}

// ErrAuditEntry means that the server will never take the entries: to try again is of no use.
var ErrAuditEntry = errors.New("the server does not take the entries")

// WriteAudit writes entries down in one statement. Their times are told as ages, so that the server's clock alone counts. When the connection is
// lost in the very moment of the commit it fails, and what was written is there twice if it is tried again.
func (c *Catalog) WriteAudit(ctx context.Context, entries []AuditEntry) error {
	type aged struct {
		Age float64 `json:"age"`
		AuditEntry
	}
	list := make([]aged, len(entries))
	for i, e := range entries {
		list[i] = aged{time.Since(e.At).Seconds(), e}
	}
	text, err := json.Marshal(list)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAuditEntry, err)
	}
	_, err = c.pool.Exec(ctx, `INSERT INTO scrim_state.audit (at, kind, role, client, application, tag, relation, relation_oid, columns, rows, fingerprint, sqlstate, details)
		SELECT pg_catalog.clock_timestamp() - pg_catalog.make_interval(secs => e.age), e.kind, e.role, e.client, e.application, e.tag, CASE WHEN e.relation IS NOT NULL THEN pg_catalog.format('%I.%I', e.schema, e.relation) END, e.relation_oid, e.columns,
			e.rows, e.fingerprint, e.sqlstate, coalesce(e.details, '{}')
		FROM pg_catalog.jsonb_to_recordset($1::pg_catalog.jsonb) AS e(age float8, kind text, role text, client text, application text, tag text, schema text, relation text,
			relation_oid oid, columns text[], rows int8, fingerprint text, sqlstate text, details jsonb) ORDER BY e.age DESC`, string(text))
	var refused *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused) && (refused.Code[:2] == "22" || refused.Code[:2] == "23"): // its message could quote them
		return fmt.Errorf("%w: SQLSTATE %s", ErrAuditEntry, refused.Code)
	case isConnectionLost(err):
		c.pool.Reset()
	}
	return fmt.Errorf("write the audit: %w", err)
}

// PruneAudit deletes entries that are older than the retention, so many at most, and returns how many there were.
func (c *Catalog) PruneAudit(ctx context.Context, most int) (int64, error) {
	var gone int64
	if err := c.pool.QueryRow(ctx, `SELECT scrim.prune_audit($1)`, most).Scan(&gone); err != nil {
		return 0, fmt.Errorf("prune the audit: %w", err)
	}
	return gone, nil
}
