package catalog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Config of a catalog. The zero value of every field but DSN is usable.
type Config struct {
	// DSN of the role that ran `scrim init`.
	DSN string
	// Lease is how long a snapshot may serve masked statements without a word from the server. Default 15 s.
	Lease time.Duration
	// PollInterval is how often the version is compared even without a notice. Default 2 s; must be below Lease.
	PollInterval time.Duration
	// Prepare is called with each new snapshot before it becomes the current one, which waits for it, for PollInterval at
	// most. May be nil.
	Prepare func(context.Context, *Snapshot)
	// Loaded is called with each new snapshot once it is the current one. May be nil.
	Loaded func(*Snapshot)
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

// Catalog holds the current snapshot and the connections that keep it current.
type Catalog struct {
	pool     *pgxpool.Pool
	database string
	lease    time.Duration
	poll     time.Duration
	prepare  func(context.Context, *Snapshot)
	loaded   func(*Snapshot)
	log      *slog.Logger
	current  atomic.Pointer[Snapshot]
	views    atomic.Pointer[Views]
	contact  atomic.Int64 // Unix nanoseconds of the last successful look at the version
	reloadMu sync.Mutex
}

// Open connects, checks that the schemas are of this program's version, and loads the first snapshot.
func Open(ctx context.Context, cfg Config) (*Catalog, error) {
	if cfg.Lease == 0 {
		cfg.Lease = 15 * time.Second
	}
	if cfg.PollInterval == 0 {
		cfg.PollInterval = 2 * time.Second
	}
	if cfg.PollInterval >= cfg.Lease {
		return nil, errors.New("catalog: PollInterval must be below Lease")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	poolConfig, err := pgxpool.ParseConfig(cfg.DSN)
	if err != nil {
		return nil, errors.New("catalog: the DSN is malformed") // the parser's own error could quote a password
	}
	poolConfig.MaxConns = 4
	// What this pool runs must not depend on anything a user can create.
	poolConfig.ConnConfig.RuntimeParams["search_path"] = "pg_catalog,pg_temp"
	poolConfig.ConnConfig.RuntimeParams["application_name"] = "scrim catalog"
	pool, err := pgxpool.NewWithConfig(ctx, poolConfig)
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	c := &Catalog{pool: pool, lease: cfg.Lease, poll: cfg.PollInterval, prepare: cfg.Prepare, loaded: cfg.Loaded, log: cfg.Logger}
	if err := pool.QueryRow(ctx, `SELECT current_database()`).Scan(&c.database); err != nil {
		pool.Close()
		return nil, fmt.Errorf("catalog: %w", err)
	}
	if err := checkVersion(ctx, c.pool); err != nil {
		pool.Close()
		return nil, err
	}
	if _, err := c.Reload(ctx); err != nil {
		pool.Close()
		return nil, err
	}
	return c, nil
}

// Close ends all connections. Run must have returned.
func (c *Catalog) Close() { c.pool.Close() }

// Database is the one that the catalog lies in, and the only one whose relations it knows.
func (c *Catalog) Database() string { return c.database }

// Snapshot returns the newest snapshot. It never blocks.
func (c *Catalog) Snapshot() *Snapshot { return c.current.Load() }

// Fresh tells whether the snapshot was confirmed within the lease. Masked statements must be refused when it was not.
func (c *Catalog) Fresh() bool {
	return time.Since(time.Unix(0, c.contact.Load())) < c.lease
}

// Reload loads a new snapshot if the version moved, or what it protects has other names, and returns the current one. It looks for views, too.
func (c *Catalog) Reload(ctx context.Context) (*Snapshot, error) {
	return c.reload(ctx, nil)
}

// Replace loads a new snapshot in the place of one that was found outdated, whatever the version says: tables are altered
// without Scrim's knowing.
func (c *Catalog) Replace(ctx context.Context, outdated *Snapshot) error {
	_, err := c.reload(ctx, outdated)
	return err
}

func (c *Catalog) reload(ctx context.Context, outdated *Snapshot) (*Snapshot, error) {
	c.reloadMu.Lock()
	defer c.reloadMu.Unlock()
	asked := time.Now()
	snapshot := c.current.Load()
	if snapshot == outdated { // or nothing was loaded yet
		snapshot = nil
	}
	var views *Views
	err := pgx.BeginTxFunc(ctx, c.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		err := checkHome(ctx, tx) // one of the same name can have taken the database's place
		if err != nil {
			return err
		}
		if views, err = loadViews(ctx, tx); err != nil {
			return err
		}
		if snapshot != nil {
			var version int64
			var names string
			if err := tx.QueryRow(ctx, selectVersion).Scan(&version, &names); err != nil {
				return err
			}
			if version == snapshot.Version && names == snapshot.allNames {
				return nil
			}
		}
		snapshot, err = load(ctx, tx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("load catalog: %w", err)
	}
	if old := c.current.Load(); old != nil && old != snapshot {
		snapshot.follow(old)
	}
	if c.prepare != nil && snapshot != c.current.Load() {
		ctx, cancel := context.WithTimeout(ctx, c.poll)
		c.prepare(ctx, snapshot)
		cancel()
	}
	if old := c.current.Swap(snapshot); old != snapshot {
		c.log.InfoContext(ctx, "catalog loaded", "version", snapshot.Version, "protected", len(snapshot.Protections))
		if c.loaded != nil {
			c.loaded(snapshot)
		}
	}
	c.keepViews(views)
	c.contact.Store(asked.UnixNano())
	return snapshot, nil
}

// Run keeps the snapshot current until ctx ends. It survives a server that goes away and comes back.
func (c *Catalog) Run(ctx context.Context) error {
	for lost := false; ctx.Err() == nil; {
		err := c.listen(ctx, func() {
			if lost {
				c.log.InfoContext(ctx, "catalog connection is back")
			}
			lost = false
		})
		if ctx.Err() != nil {
			break
		}
		if !lost {
			c.log.WarnContext(ctx, "catalog connection lost, trying again every second", "error", err)
		}
		lost = true
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return context.Cause(ctx)
}

func (c *Catalog) listen(ctx context.Context, connected func()) error {
	conn, err := c.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	// A connection that listens is not fit for the pool again.
	raw := conn.Hijack()
	defer func() { _ = raw.Close(context.WithoutCancel(ctx)) }()
	if _, err := raw.Exec(ctx, `LISTEN scrim_catalog`); err != nil {
		return err
	}
	connected()
	for noted := (time.Time{}); ; {
		if _, err := c.Reload(ctx); err != nil {
			return err
		}
		if time.Since(noted) > time.Minute {
			noted = time.Now()
			if _, err := raw.Exec(ctx, `SELECT scrim.note_names()`); err != nil { // a change of policies holds it up: next time
				c.log.DebugContext(ctx, "names were not noted", "error", err)
			}
		}
		waiting, cancel := context.WithTimeout(ctx, c.poll)
		_, err := raw.WaitForNotification(waiting)
		timedOut := waiting.Err() != nil
		cancel()
		if err != nil && (!timedOut || ctx.Err() != nil) {
			return err
		}
	}
}

// ColumnKey names a column of a protected relation.
type ColumnKey struct {
	Relation uint32
	Num      int16
}

// Readable returns the masked columns of the snapshot's policies that a role may read raw, by GRANT, membership or
// being superuser. A column that was dropped counts as readable. Of a feature view it counts who may read the features in its
// table. An unknown role reads nothing.
func (c *Catalog) Readable(ctx context.Context, role string) (map[ColumnKey]bool, error) {
	var keys []ColumnKey
	err := c.onLiveConnection(ctx, func() error {
		rows, err := c.pool.Query(ctx, `SELECT x.relation, m.num
			FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id, unnest(p.columns) AS m(num), pg_catalog.pg_roles r
			WHERE r.rolname = $1 AND coalesce(pg_catalog.has_column_privilege(r.oid, x.relation, m.num, 'SELECT'), true)
			AND (x.features_of IS NULL OR NOT EXISTS (SELECT FROM unnest(p.inputs) AS i(num)
				WHERE NOT coalesce(pg_catalog.has_column_privilege(r.oid, x.features_of, i.num, 'SELECT'), true)))`, role)
		if err == nil {
			keys, err = pgx.CollectRows(rows, pgx.RowToStructByPos[ColumnKey])
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read privileges: %w", err)
	}
	readable := make(map[ColumnKey]bool, len(keys))
	for _, k := range keys {
		readable[k] = true
	}
	return readable, nil
}

// Exempt returns the relations of which a role reads raw values because all their policies except it, or a role that it is in. A
// superuser is in every role, and counts as in none here.
func (c *Catalog) Exempt(ctx context.Context, role string) (map[uint32]bool, error) {
	var relations []uint32
	err := c.onLiveConnection(ctx, func() error {
		rows, err := c.pool.Query(ctx, `SELECT x.relation FROM scrim_state.protections x JOIN scrim_state.policies p ON p.protection = x.id, pg_catalog.pg_roles r
			WHERE r.rolname = $1 AND NOT r.rolsuper GROUP BY x.relation
			HAVING bool_and(EXISTS (SELECT FROM pg_catalog.pg_roles e WHERE e.oid = ANY (p.except_roles) AND pg_catalog.pg_has_role(r.oid, e.oid, 'USAGE')))`, role)
		if err == nil {
			relations, err = pgx.CollectRows(rows, pgx.RowTo[uint32])
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read exempt roles: %w", err)
	}
	exempt := make(map[uint32]bool, len(relations))
	for _, oid := range relations {
		exempt[oid] = true
	}
	return exempt, nil
}

// onLiveConnection runs a query that only reads, and once more if its connection was lost: after a restart of the server
// the pool is full of connections that are gone, and learns that of each one by using it.
func (c *Catalog) onLiveConnection(ctx context.Context, query func() error) error {
	err := query()
	if err == nil || ctx.Err() != nil || !isConnectionLost(err) {
		return err
	}
	c.pool.Reset()
	return query()
}

// isConnectionLost tells whether an error was, or came with, the end of the connection.
func isConnectionLost(err error) bool {
	var said *pgconn.PgError
	if errors.As(err, &said) {
		return said.SeverityUnlocalized == "FATAL" || said.SeverityUnlocalized == "PANIC"
	}
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || pgconn.SafeToRetry(err)
}
