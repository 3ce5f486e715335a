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
	// Protections by the OID of the protected relation.
	Protections map[uint32]*Protection
	// allNames is a hash of the names of protected relations and of their columns: those can be altered without a new version.
	allNames string
	// names of protected relations and masked views, unqualified, as they are spelled in the system catalogs.
	names map[string]bool
	// former are names that protected relations had in earlier snapshots, with their OIDs: a table is often renamed back, or for a moment.
	former map[string]uint32
	// features are those of feature views.
	features map[string]bool
}

// Named tells whether a relation of this unqualified name is protected, or was, or is a masked view. A no is final, as long as nothing is renamed:
// the name cannot resolve to a protected relation whatever the search_path.
func (s *Snapshot) Named(name string) bool { return s.names[name] || s.former[name] != 0 }

// follow notes the names that relations had in an older snapshot.
func (s *Snapshot) follow(old *Snapshot) {
	s.former = map[string]uint32{}
	for name, oid := range old.former {
		if s.Protections[oid] != nil {
			s.former[name] = oid
		}
	}
	for oid, was := range old.Protections {
		if now := s.Protections[oid]; now != nil && now.Relation.Name != was.Relation.Name {
			s.former[was.Relation.Name] = oid
		}
	}
}

// NamedFeatureView tells whether the relation of this name in scrim_runtime is a feature view. All others there are masked views.
func (s *Snapshot) NamedFeatureView(name string) bool { return s.features[name] }

// Presentation says what a masked column shows of the code.
type Presentation string

// The two presentations of sql-surface.md.
const (
	Vector     Presentation = "VECTOR"     // the whole code as real[]
	Components Presentation = "COMPONENTS" // the k-th masked column shows the k-th component as double precision
)

// Protection is what masked roles see of one relation: its masked view, and the policies on its columns.
type Protection struct {
	Relation Relation
	View     View
	Policies []*Policy // by ID; no column is in two
	// FeatureView means that the relation is a feature view: it runs with its reader's rights, so that a masked role may not read even
	// its unmasked columns but through the masked view.
	FeatureView bool
	// Keys are the one that seals, and then those before it that statements under way may still seal with, newest first.
	Keys [][KeySize]byte

	id       int32
	keyOwner uint32
}

// Policy is a masking policy on some columns of a relation: an encoder's or a model's, or an SQL mask.
type Policy struct {
	ID         int32 // also the slot number inside its seals
	Name       string
	Protection *Protection
	// Masked holds attribute numbers of the masked columns.
	Masked []int16
	// Closed says why masked roles see nothing of the masked columns, "disabled" or "suspended"; empty if they do.
	Closed string
	// Expression is what an SQL mask shows in the columns' place, for people: PostgreSQL computes it in the masked view. Empty: the
	// policy is an encoder's or a model's, and the rest is about that.
	Expression string

	// Components has what each of Masked shows of the code, from 0.
	Components []int
	// Inputs is how many features go into one seal.
	Inputs  int
	Encoder Encoder
	Present Presentation
	Sealed  string // the masked view's column of seals
}

// Encodes tells whether the policy shows codes: of an encoder, or predictions of a model. If not, it is an SQL mask.
func (p *Policy) Encodes() bool { return p.Expression == "" }

// Policy returns the policy that masks a column, or nil.
func (p *Protection) Policy(num int16) *Policy {
	for _, policy := range p.Policies {
		if slices.Contains(policy.Masked, num) {
			return policy
		}
	}
	return nil
}

// Column returns the live column of an attribute number; zero if there is none.
func (p *Protection) Column(num int16) Column {
	for _, c := range p.Relation.Columns {
		if c.Num == num {
			return c
		}
	}
	return Column{}
}

// Encoder names one published version of an encoder, or of a model, whose predictions are codes like an encoder's.
type Encoder struct {
	Name    string
	Version int
	SHA256  string
	Inputs  int
	Dims    int
	Model   bool
}

// String names it for people.
func (e Encoder) String() string {
	kind := "encoder"
	if e.Model {
		kind = "model"
	}
	return fmt.Sprintf("%s %s version %d", kind, e.Name, e.Version)
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

// View is the masked view in scrim_runtime. Its first columns stand for the attribute numbers in Open; then come those of Masks, the
// sealed ones of the policies, and the columns that identify a row.
type View struct {
	OID  uint32
	Name string
	// Open are the unmasked columns, and Masks what SQL masks show in the place of the masked ones.
	Open, Masks []ViewColumn
	Identity    Identity
	// SealsOnly means that the view has no unmasked columns: Open are columns of the table, without a number in the view.
	SealsOnly bool
}

// ViewColumn is a column of a masked view that stands for one of the table.
type ViewColumn struct {
	Num  int16  // in the view
	Name string // in the view; the table's column may have been renamed since
	Base int16  // attribute number in the table
}

// Base returns the attribute number of the table's column that a column of the view stands for; 0 for none.
func (v *View) Base(num int16) int16 {
	for _, list := range [][]ViewColumn{v.Open, v.Masks} {
		for _, c := range list {
			if c.Num == num && num > 0 {
				return c.Base
			}
		}
	}
	return 0
}

// querier is a pgx connection, pool or transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

// selectVersion reads the version, and the hash of the names.
const selectVersion = `SELECT v.version, (
		SELECT coalesce(sum(hashtextextended(concat_ws('.', x.id, n.nspname, c.relname, a.attnum, a.attname), 0)), 0)::text
		FROM scrim_state.protections x JOIN pg_catalog.pg_class c ON c.oid = x.relation JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
	FROM scrim_state.catalog_version v`

// load reads a snapshot. q must be a REPEATABLE READ transaction, so that all of it is of one moment.
func load(ctx context.Context, q querier) (*Snapshot, error) {
	s := &Snapshot{Protections: map[uint32]*Protection{}, names: map[string]bool{}, features: map[string]bool{}}
	if err := q.QueryRow(ctx, selectVersion).Scan(&s.Version, &s.allNames); err != nil {
		return nil, fmt.Errorf("read catalog version: %w", err)
	}
	err := q.QueryRow(ctx, `SELECT CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END, a.level FROM pg_catalog.pg_type t, scrim_state.audit_settings a
		WHERE t.typname = 'sealed' AND t.typnamespace = 'scrim_runtime'::pg_catalog.regnamespace`).Scan(&s.SealedType, &s.Audit)
	if err != nil {
		return nil, fmt.Errorf("read the type of sealed columns and the audit's settings: %w", err)
	}
	protections, err := loadProtections(ctx, q)
	if err != nil {
		return nil, err
	}
	details := &pgx.Batch{} // one way there and back: a partitioned table has many policies
	for _, p := range protections {
		p.queueDetails(details)
	}
	if err := q.SendBatch(ctx, details).Close(); err != nil {
		return nil, fmt.Errorf("read columns and keys of policies: %w", err)
	}
	for _, p := range protections {
		s.Protections[p.Relation.OID] = p
		s.names[p.Relation.Name] = true
		s.names[p.View.Name] = true
		if p.FeatureView {
			s.features[p.Relation.Name] = true
		}
	}
	return s, nil
}

// loadProtections leaves out those whose table was dropped: nothing is left to protect.
func loadProtections(ctx context.Context, q querier) ([]*Protection, error) {
	rows, err := q.Query(ctx, `SELECT x.id, c.oid, n.nspname, c.relname, m.oid, m.relname, x.identity, x.seals_only, x.key_owner, x.features_of IS NOT NULL,
			p.id, p.name, p.columns, ARRAY(SELECT c - 1 FROM unnest(p.components) WITH ORDINALITY AS u(c, ord) ORDER BY ord), cardinality(p.inputs),
			CASE WHEN x.suspended THEN 'suspended' WHEN NOT p.enabled THEN 'disabled' ELSE '' END,
			coalesce(q.wording, ''), coalesce(p.present, ''), CASE WHEN q.id IS NULL THEN 'sealed_' || p.id ELSE '' END,
			coalesce(e.name, o.name, ''), coalesce(v.version, w.version, 0), coalesce(v.sha256, w.sha256, ''),
			coalesce(cardinality(e.feature_columns), cardinality(o.inputs), 0), coalesce(e.latent_dims, o.outputs, 0), o.id IS NOT NULL
		FROM scrim_state.protections x
		JOIN scrim_state.policies p ON p.protection = x.id
		LEFT JOIN scrim_state.sql_masks q ON q.id = p.sql_mask
		LEFT JOIN scrim_state.encoders e ON e.id = p.encoder_id
		LEFT JOIN scrim_state.encoder_versions v ON v.encoder_id = e.id AND v.version = e.default_version
		LEFT JOIN scrim_state.models o ON o.id = p.model_id
		LEFT JOIN scrim_state.model_versions w ON w.model_id = o.id AND w.version = coalesce(p.model_version, o.default_version)
		JOIN pg_catalog.pg_class c ON c.oid = x.relation
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_catalog.pg_class m ON m.oid = x.masked_view
		ORDER BY x.id, p.id`)
	if err != nil {
		return nil, fmt.Errorf("read policies: %w", err)
	}
	defer rows.Close()
	var protections []*Protection
	for rows.Next() {
		of, p := &Protection{}, &Policy{}
		err := rows.Scan(&of.id, &of.Relation.OID, &of.Relation.Schema, &of.Relation.Name, &of.View.OID, &of.View.Name, &of.View.Identity, &of.View.SealsOnly, &of.keyOwner, &of.FeatureView,
			&p.ID, &p.Name, &p.Masked, &p.Components, &p.Inputs, &p.Closed, &p.Expression, &p.Present, &p.Sealed,
			&p.Encoder.Name, &p.Encoder.Version, &p.Encoder.SHA256, &p.Encoder.Inputs, &p.Encoder.Dims, &p.Encoder.Model)
		if err != nil {
			return nil, fmt.Errorf("read policies: %w", err)
		}
		if last := len(protections) - 1; last >= 0 && protections[last].id == of.id {
			of = protections[last]
		} else {
			protections = append(protections, of)
		}
		p.Protection, of.Policies = of, append(of.Policies, p)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read policies: %w", err)
	}
	return protections, nil
}

// queueDetails asks for columns and keys.
func (p *Protection) queueDetails(b *pgx.Batch) {
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
	b.Queue(`SELECT CASE WHEN x.seals_only THEN 0 ELSE a.attnum END::int2, a.attname,
			CASE WHEN x.seals_only THEN a.attnum ELSE x.view_columns[a.attnum] END
		FROM scrim_state.protections x
		JOIN pg_catalog.pg_attribute a ON CASE WHEN x.seals_only THEN a.attrelid = x.relation AND a.attnum = ANY (x.view_columns)
			ELSE a.attrelid = x.masked_view AND a.attnum BETWEEN 1 AND cardinality(x.view_columns) END
		WHERE x.id = $1 ORDER BY a.attnum`, p.id).Query(func(rows pgx.Rows) (err error) {
		p.View.Open, err = pgx.CollectRows(rows, pgx.RowToStructByPos[ViewColumn])
		return err
	})
	b.Queue(`SELECT a.attnum, a.attname, m.base
		FROM (SELECT x.masked_view, c.num AS base, row_number() OVER (ORDER BY p.id, c.ord) + CASE WHEN x.seals_only THEN 0 ELSE cardinality(x.view_columns) END AS num
			FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id AND p.sql_mask IS NOT NULL, unnest(p.columns) WITH ORDINALITY AS c(num, ord)
			WHERE x.id = $1) m
		JOIN pg_catalog.pg_attribute a ON a.attrelid = m.masked_view AND a.attnum = m.num ORDER BY a.attnum`, p.id).Query(func(rows pgx.Rows) (err error) {
		p.View.Masks, err = pgx.CollectRows(rows, pgx.RowToStructByPos[ViewColumn])
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
				return fmt.Errorf("a key of %s.%s has a wrong size", p.Relation.Schema, p.Relation.Name)
			}
			p.Keys = append(p.Keys, [KeySize]byte(key))
		}
		return nil
	})
}
