package catalog

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Versions returns every version of every encoder and model that is registered, as a transaction sees them.
func Versions(ctx context.Context, tx pgx.Tx) ([]Encoder, error) {
	rows, err := tx.Query(ctx, `SELECT e.name, v.version, v.sha256, cardinality(e.feature_columns), e.latent_dims, false
		FROM scrim_state.encoder_versions v JOIN scrim_state.encoders e ON e.id OPERATOR(pg_catalog.=) v.encoder_id
		UNION ALL
		SELECT m.name, v.version, v.sha256, cardinality(m.inputs), m.outputs, true
		FROM scrim_state.model_versions v JOIN scrim_state.models m ON m.id OPERATOR(pg_catalog.=) v.model_id`)
	if err != nil {
		return nil, fmt.Errorf("read versions of models: %w", err)
	}
	versions, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Encoder])
	if err != nil {
		return nil, fmt.Errorf("read versions of models: %w", err)
	}
	return versions, nil
}

// Publishing returns the models that are having a file published: one that is not among them and has no version, as Versions says later, will never have
// one. The caller keeps others from beginning, by the row of the training slot.
func Publishing(ctx context.Context, tx pgx.Tx) ([]string, error) {
	rows, err := tx.Query(ctx, `SELECT scrim.models_in_publication()`)
	if err != nil {
		return nil, fmt.Errorf("read publications of models: %w", err)
	}
	models, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read publications of models: %w", err)
	}
	return models, nil
}

// Publication is a version of a model whose file is about to be published.
type Publication struct {
	Model     string
	Version   int
	SHA256    string
	Inputs    []string
	Outputs   int
	Signature string
}

// BeginPublication notes down that a file will be published, so that no sweep removes it, and says by what token it is then registered, and
// which database the folder must be for.
func (c *Catalog) BeginPublication(ctx context.Context, p Publication) (token, database string, err error) {
	err = c.onLiveConnection(ctx, func() error {
		return pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error {
			if database, err = DatabaseID(ctx, tx); err != nil {
				return err
			}
			return tx.QueryRow(ctx, `SELECT scrim.begin_publication($1, $2, $3, $4, $5, $6)::text`, p.Model, p.Version, p.SHA256, p.Inputs, p.Outputs, p.Signature).Scan(&token)
		})
	})
	if err != nil {
		return "", "", fmt.Errorf("publish model: %w", err)
	}
	return token, database, nil
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
