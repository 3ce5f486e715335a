package catalog

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
)

// KeySize is the size of a sealing key in bytes: AES-128.
const KeySize = 16

// Snapshot is what Scrim knew at one version. It is never changed after it was loaded.
type Snapshot struct {
	Version int64
	// SealedType is the type OID that sealed columns carry in a RowDescription: scrim_runtime.sealed, or bytea where
	// `scrim init` did not run as superuser.
	SealedType uint32
	// Audit is what is audited.
	Audit AuditLevel
	// Policies by the OID of the protected relation.
	Policies map[uint32]*Policy
	// names of protected relations and masked views, unqualified, as they are spelled in the system catalogs.
	names map[string]bool
	// features are those of feature views.
	features map[string]bool
}

// Named tells whether a relation of this unqualified name is protected, or is a masked view. A no is final: the name
// cannot resolve to a protected relation whatever the search_path.
func (s *Snapshot) Named(name string) bool { return s.names[name] }

// NamedFeatureView tells whether the relation of this name in scrim_runtime is a feature view. All others there are masked views.
func (s *Snapshot) NamedFeatureView(name string) bool { return s.features[name] }

// Presentation says what a masked column shows of the code.
type Presentation string

// The two presentations of sql-surface.md.
const (
	Vector     Presentation = "VECTOR"     // the whole code as real[]
	Components Presentation = "COMPONENTS" // the k-th masked column shows the k-th component as double precision
)

// Policy is a masking policy on one relation, with all that a masked read needs.
type Policy struct {
	ID       int32 // also the slot number inside every seal
	Name     string
	Relation Relation
	// Masked holds attribute numbers of the masked columns, and Components what each shows of the code, from 0.
	Masked     []int16
	Components []int
	// Inputs is how many features go into one seal.
	Inputs  int
	Encoder Encoder
	Present Presentation
	View    View
	// FeatureView means that the relation is a feature view: it runs with its reader's rights, so that a masked role may not read even
	// its unmasked columns but through the masked view.
	FeatureView bool
	// Closed says why masked roles see nothing of the masked columns, "disabled" or "suspended"; empty if they do.
	Closed string
	// Keys are the one that seals, and then those before it that statements under way may still seal with, newest first.
	Keys [][KeySize]byte

	keyOwner uint32
}

// Encoder names one published version of an encoder.
type Encoder struct {
	Name    string
	Version int
	SHA256  string
	Inputs  int
	Dims    int
}

// Relation is a protected table.
type Relation struct {
	OID          uint32
	Schema, Name string
	Columns      []Column // live columns in attribute order
}

// SameColumns tells whether the live columns have these names, in this order.
func (r Relation) SameColumns(names []string) bool {
	return slices.EqualFunc(r.Columns, names, func(c Column, name string) bool { return c.Name == name })
}

// Component is what the policy's masked column of this number shows of the code, from 0; -1 for the whole code, or for a
// column that is not masked.
func (p *Policy) Component(num int16) int {
	if at := slices.Index(p.Masked, num); at >= 0 && p.Present == Components {
		return p.Components[at]
	}
	return -1
}

// Column of a protected table.
type Column struct {
	Num  int16
	Name string
	// Type and Collation as SQL spells them, qualified but for types that have words of SQL's own. No collation: the type's own.
	Type, Collation string
}

// Identity is how a row of a relation is known when a statement meets it again.
type Identity string

// The identities.
const (
	Place         Identity = "PLACE"           // by ctid and xmin
	TableAndPlace Identity = "TABLE AND PLACE" // by tableoid besides: the relation has partitions or children
	Unknown       Identity = "NONE"            // not at all: a view or a foreign table
)

// View is the masked view in scrim_runtime. Its first columns stand for the attribute numbers in Open; then come the sealed
// one, and the columns that identify a row.
type View struct {
	OID      uint32
	Name     string
	Open     []ViewColumn
	Sealed   string
	Identity Identity
	// SealsOnly means that the view has no columns besides: Open are columns of the table, without a number in the view.
	SealsOnly bool
}

// ViewColumn is an unmasked column of a masked view.
type ViewColumn struct {
	Num  int16  // in the view
	Name string // in the view; the table's column may have been renamed since
	Base int16  // attribute number in the table
}

// querier is a pgx connection, pool or transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// load reads a snapshot. q must be a REPEATABLE READ transaction, so that all of it is of one moment.
func load(ctx context.Context, q querier) (*Snapshot, error) {
	s := &Snapshot{Policies: map[uint32]*Policy{}, names: map[string]bool{}, features: map[string]bool{}}
	err := q.QueryRow(ctx, `SELECT v.version,
			(SELECT CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END FROM pg_catalog.pg_type t
			  WHERE t.typname = 'sealed' AND t.typnamespace = 'scrim_runtime'::pg_catalog.regnamespace),
			a.level
		FROM scrim_state.catalog_version v, scrim_state.audit_settings a`).Scan(&s.Version, &s.SealedType, &s.Audit)
	if err != nil {
		return nil, fmt.Errorf("read catalog version: %w", err)
	}
	policies, err := loadPolicies(ctx, q)
	if err != nil {
		return nil, err
	}
	details := &pgx.Batch{} // one way there and back: a partitioned table has many policies
	for _, p := range policies {
		p.queueDetails(details)
	}
	if err := q.SendBatch(ctx, details).Close(); err != nil {
		return nil, fmt.Errorf("read columns and keys of policies: %w", err)
	}
	for _, p := range policies {
		s.Policies[p.Relation.OID] = p
		s.names[p.Relation.Name] = true
		s.names[p.View.Name] = true
		if p.FeatureView {
			s.features[p.Relation.Name] = true
		}
	}
	return s, nil
}

// loadPolicies leaves out policies whose table was dropped: nothing is left to protect.
func loadPolicies(ctx context.Context, q querier) ([]*Policy, error) {
	rows, err := q.Query(ctx, `SELECT p.id, p.name, c.oid, n.nspname, c.relname, p.columns,
			ARRAY(SELECT c - 1 FROM unnest(p.components) WITH ORDINALITY AS u(c, ord) ORDER BY ord), cardinality(p.inputs), p.present,
			e.name, v.version, v.sha256, cardinality(e.feature_columns), e.latent_dims,
			w.oid, w.relname, 'sealed_' || p.id, p.identity, p.seals_only, p.key_owner,
			CASE WHEN p.suspended THEN 'suspended' WHEN NOT p.enabled THEN 'disabled' ELSE '' END, p.features_of IS NOT NULL
		FROM scrim_state.policies p
		JOIN scrim_state.encoders e ON e.id = p.encoder_id
		JOIN scrim_state.encoder_versions v ON v.encoder_id = e.id AND v.version = e.default_version
		JOIN pg_catalog.pg_class c ON c.oid = p.relation
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_catalog.pg_class w ON w.oid = p.masked_view
		ORDER BY p.id`)
	if err != nil {
		return nil, fmt.Errorf("read policies: %w", err)
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (*Policy, error) {
		p := &Policy{}
		return p, row.Scan(&p.ID, &p.Name, &p.Relation.OID, &p.Relation.Schema, &p.Relation.Name, &p.Masked, &p.Components, &p.Inputs, &p.Present,
			&p.Encoder.Name, &p.Encoder.Version, &p.Encoder.SHA256, &p.Encoder.Inputs, &p.Encoder.Dims,
			&p.View.OID, &p.View.Name, &p.View.Sealed, &p.View.Identity, &p.View.SealsOnly, &p.keyOwner, &p.Closed, &p.FeatureView)
	})
}

// queueDetails asks for columns and keys.
func (p *Policy) queueDetails(b *pgx.Batch) {
	b.Queue(`SELECT a.attnum, a.attname,
			CASE WHEN e.typnamespace = 'pg_catalog'::pg_catalog.regnamespace AND f.type IN (pg_catalog.quote_ident(e.typname), pg_catalog.quote_ident(e.typname) || '[]')
				THEN 'pg_catalog.' ELSE '' END || f.type,
			coalesce((SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.collname)
				FROM pg_catalog.pg_collation c JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace
				JOIN pg_catalog.pg_type t ON t.oid = a.atttypid AND t.typcollation <> c.oid WHERE c.oid = a.attcollation), '')
		FROM pg_catalog.pg_attribute a
		JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
		JOIN pg_catalog.pg_type e ON e.oid = CASE WHEN t.typcategory = 'A' AND t.typelem <> 0 THEN t.typelem ELSE t.oid END,
			pg_catalog.format_type(a.atttypid, a.atttypmod) f(type)
		WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`, p.Relation.OID).Query(func(rows pgx.Rows) (err error) {
		p.Relation.Columns, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Column])
		return err
	})
	b.Queue(`SELECT CASE WHEN p.seals_only THEN 0 ELSE a.attnum END::int2, a.attname,
			CASE WHEN p.seals_only THEN a.attnum ELSE p.view_columns[a.attnum] END
		FROM scrim_state.policies p
		JOIN pg_catalog.pg_attribute a ON CASE WHEN p.seals_only THEN a.attrelid = p.relation AND a.attnum = ANY (p.view_columns)
			ELSE a.attrelid = p.masked_view AND a.attnum BETWEEN 1 AND cardinality(p.view_columns) END
		WHERE p.id = $1 ORDER BY a.attnum`, p.ID).Query(func(rows pgx.Rows) (err error) {
		p.View.Open, err = pgx.CollectRows(rows, pgx.RowToStructByPos[ViewColumn])
		return err
	})
	key := pgx.Identifier{"scrim_state", fmt.Sprintf("key_%d", p.keyOwner)}.Sanitize()
	b.Queue(`SELECT array_prepend(k.key, ARRAY(SELECT r.key FROM scrim_state.retired_keys r WHERE r.key_owner = $1 ORDER BY r.id DESC))
		FROM `+key+` k`, p.keyOwner).QueryRow(func(row pgx.Row) error {
		var keys [][]byte
		if err := row.Scan(&keys); err != nil {
			return err
		}
		for _, key := range keys {
			if len(key) != KeySize {
				return fmt.Errorf("a key of policy %d has a wrong size", p.ID)
			}
			p.Keys = append(p.Keys, [KeySize]byte(key))
		}
		return nil
	})
}
