package catalog

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
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

// AuditEntry is a line of the audit. Nothing in it is of a row, a literal or a parameter. What is empty is unknown.
type AuditEntry struct {
	At                              time.Time
	Kind, Role, Client, Application string
	Tag                             string // of the command
	Schema, Relation                string
	RelationOID                     uint32
	Columns                         []string
	Rows                            *int64
	Fingerprint, SQLState           string
	Details                         map[string]string
}

// ErrAuditEntry means that the server will never take the entries: to try again is of no use.
var ErrAuditEntry = errors.New("the server does not take the entries")

// WriteAudit writes entries down by one COPY, with their times by the server's clock. When the connection is lost in the very moment of the commit it fails, and what was
// written is there twice if it is tried again.
func (c *Catalog) WriteAudit(ctx context.Context, entries []AuditEntry) error {
	var now time.Time
	asked := time.Now()
	err := c.pool.QueryRow(ctx, `SELECT pg_catalog.clock_timestamp()`).Scan(&now)
	if err == nil {
		_, err = c.pool.CopyFrom(ctx, pgx.Identifier{"scrim_state", "audit"},
			[]string{"at", "kind", "role", "client", "application", "tag", "schema", "relation", "relation_oid", "columns", "rows", "fingerprint", "sqlstate", "details"},
			pgx.CopyFromSlice(len(entries), func(i int) ([]any, error) {
				e := entries[i]
				return []any{
					now.Add(e.At.Sub(asked)), e.Kind, known(e.Role), known(e.Client), known(e.Application), known(e.Tag), known(e.Schema), known(e.Relation), known(e.RelationOID),
					e.Columns, e.Rows, known(e.Fingerprint), known(e.SQLState), details(e.Details),
				}, nil
			}))
	}
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

// known is a value, or NULL for a zero.
func known[T comparable](value T) *T {
	var none T
	if value == none {
		return nil
	}
	return &value
}

func details(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// PruneAudit deletes entries that are older than the retention, so many at most, and returns how many there were.
func (c *Catalog) PruneAudit(ctx context.Context, most int) (int64, error) {
	var gone int64
	if err := c.pool.QueryRow(ctx, `SELECT scrim.prune_audit($1)`, most).Scan(&gone); err != nil {
		return 0, fmt.Errorf("prune the audit: %w", err)
	}
	return gone, nil
}
