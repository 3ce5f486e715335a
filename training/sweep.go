package training

import (
	"context"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/udf"
)

// Sweep removes from the store what is no version of an encoder's or a model's. It returns how many files and folders went; what cannot be
// removed is in the error, and does not keep it from the rest.
//
// publishing says which encoder is having a file published, "" for none, and makes sure that no other begins to before the
// transaction ends: whoever publishes must say so, in a transaction that has ended, before Store.Publish, and take it back not
// before the version's row is committed. Then a file that was listed is either of that encoder, or was registered by now, or never will be. Proxies that publish models
// do so by catalog.BeginPublication, which waits for the same lock.
func Sweep(ctx context.Context, pool *pgxpool.Pool, store *udf.Store, publishing func(context.Context, pgx.Tx) (encoder string, err error)) (removed int, err error) {
	files, err := store.List() // before the registry: what comes later is not in question
	if err != nil || len(files) == 0 {
		return 0, err
	}
	// READ COMMITTED: the registry is read as it is after publishing has waited.
	err = pgx.BeginTxFunc(ctx, pool, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}, func(tx pgx.Tx) error {
		owner, err := catalog.DatabaseID(ctx, tx)
		if err != nil {
			return err
		}
		if err := store.Claim(owner); err != nil {
			return err
		}
		encoder, err := publishing(ctx, tx)
		if err != nil {
			return err
		}
		models, err := catalog.Publishing(ctx, tx)
		if err != nil {
			return err
		}
		versions, err := catalog.Versions(ctx, tx)
		if err != nil {
			return err
		}
		var failed []error
		for _, f := range orphans(files, versions, append(models, encoder)...) {
			if err := store.Remove(f); err != nil {
				failed = append(failed, err)
				continue
			}
			removed++
		}
		return errors.Join(failed...)
	})
	return removed, err
}

// orphans are the files, and empty folders, that no version has and that nobody is about to register.
func orphans(files []udf.File, versions []catalog.Encoder, publishing ...string) []udf.File {
	registered, encoders := map[udf.File]bool{}, map[string]bool{}
	for _, v := range versions {
		registered[udf.FileOf(v.Name, v.Version, v.SHA256)] = true
		encoders[v.Name] = true
	}
	var list []udf.File
	for _, f := range files {
		if registered[f] || slices.Contains(publishing, f.Model) || f.Name == "" && encoders[f.Model] {
			continue
		}
		list = append(list, f)
	}
	return list
}
