package catalog

import (
	"context"
	"fmt"
	"maps"

	"github.com/jackc/pgx/v5"
)

// Views are the names of views that run with the invoker's rights and read a protected relation, directly or through others
// of their kind. It is never changed after it was loaded. Temporary views are left out: they are their sessions' business.
type Views struct{ names map[string]bool }

// Named tells whether such a view has this unqualified name, as it is spelled in the system catalogs.
func (v *Views) Named(name string) bool { return v != nil && v.names[name] }

func (v *Views) same(other *Views) bool { return other != nil && maps.Equal(v.names, other.names) }

// Views returns the views that read protected relations with the invoker's rights, as they were when the version was compared
// last. They come and go without a new version; the pointer changes when they do.
func (c *Catalog) Views() *Views { return c.views.Load() }

// LookForViews reads them now.
func (c *Catalog) LookForViews(ctx context.Context) error {
	return c.onLiveConnection(ctx, func() error {
		views, err := loadViews(ctx, c.pool)
		if err == nil {
			c.keepViews(views)
		}
		return err
	})
}

func (c *Catalog) keepViews(views *Views) {
	if !views.same(c.views.Load()) {
		c.views.Store(views)
	}
}

// loadViews follows the dependencies that PostgreSQL notes of views, upwards from the protected relations.
func loadViews(ctx context.Context, q querier) (*Views, error) {
	rows, err := q.Query(ctx, `WITH RECURSIVE readers(oid) AS (
			SELECT x.relation::oid FROM scrim_state.protections x
			UNION
			SELECT c.oid FROM readers
			  JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = readers.oid AND d.classid = 'pg_rewrite'::regclass
			  JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid
			  JOIN pg_catalog.pg_class c ON c.oid = r.ev_class
			 WHERE c.relkind = 'v' AND c.relpersistence <> 't'
			   AND EXISTS (SELECT FROM pg_catalog.pg_options_to_table(c.reloptions) o WHERE o.option_name = 'security_invoker' AND o.option_value::boolean))
		SELECT DISTINCT c.relname FROM readers JOIN pg_catalog.pg_class c USING (oid) WHERE c.relkind = 'v'`)
	if err != nil {
		return nil, fmt.Errorf("read views: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read views: %w", err)
	}
	v := &Views{names: make(map[string]bool, len(names))}
	for _, name := range names {
		v.names[name] = true
	}
	return v, nil
}
