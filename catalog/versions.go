package catalog

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Versions returns every version of every encoder that is registered, as a transaction sees them.
func Versions(ctx context.Context, tx pgx.Tx) ([]Encoder, error) {
	rows, err := tx.Query(ctx, `SELECT e.name, v.version, v.sha256, cardinality(e.feature_columns), e.latent_dims
		FROM scrim_state.encoder_versions v JOIN scrim_state.encoders e ON e.id OPERATOR(pg_catalog.=) v.encoder_id`)
	if err != nil {
		return nil, fmt.Errorf("read versions of encoders: %w", err)
	}
	versions, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Encoder])
	if err != nil {
		return nil, fmt.Errorf("read versions of encoders: %w", err)
	}
	return versions, nil
}

// DatabaseID says which database of which server this is. It keeps it when it is renamed; a copy has another.
func DatabaseID(ctx context.Context, tx pgx.Tx) (string, error) {
	var id string
	err := tx.QueryRow(ctx, `SELECT pg_catalog.format('%s of server %s', d.oid, c.system_identifier)
		FROM pg_catalog.pg_database d, pg_catalog.pg_control_system() c WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()`).Scan(&id)
	if err != nil {
		return "", fmt.Errorf("read the identity of the database: %w", err)
	}
	return id, nil
}
