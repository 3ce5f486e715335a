package sql

import (
	"embed"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

//go:embed migrations/*.sql functions/*.sql runtime.sql runtime_opaque.sql runtime_bytea.sql
var files embed.FS

// Migration is one step of schema scrim_state. Versions count from 1 without gaps.
type Migration struct {
	Version int
	Name    string
	SQL     string
}

// Migrations returns every migration of schema scrim_state in order.
func Migrations() ([]Migration, error) {
	names, err := fs.Glob(files, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	out := make([]Migration, 0, len(names))
	for i, name := range names {
		base := strings.TrimSuffix(strings.TrimPrefix(name, "migrations/"), ".sql")
		number, _, _ := strings.Cut(base, "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != i+1 {
			return nil, fmt.Errorf("migration %s is out of sequence: want number %04d", name, i+1)
		}
		text, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		out = append(out, Migration{Version: version, Name: base, SQL: string(text)})
	}
	return out, nil
}

// Runtime returns the repeatable script of schema scrim_runtime. The opaque sealed type needs a superuser once; without
// one, sealed values are bytea.
func Runtime(superuser bool) (string, error) {
	variant := "runtime_bytea.sql"
	if superuser {
		variant = "runtime_opaque.sql"
	}
	base, err := files.ReadFile("runtime.sql")
	if err != nil {
		return "", err
	}
	seal, err := files.ReadFile(variant)
	if err != nil {
		return "", err
	}
	return string(base) + string(seal), nil
}

// Functions returns the script that makes schema scrim anew.
func Functions() (string, error) {
	names, err := fs.Glob(files, "functions/*.sql")
	if err != nil {
		return "", err
	}
	slices.Sort(names)
	var b strings.Builder
	for _, name := range names {
		text, err := files.ReadFile(name)
		if err != nil {
			return "", err
		}
		b.Write(text)
		b.WriteByte('\n')
	}
	return b.String(), nil
}
