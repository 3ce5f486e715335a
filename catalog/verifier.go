package catalog

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// ErrVerifierDenied means that the catalog's role may not read pg_authid.
var ErrVerifierDenied = errors.New("the catalog role may not read pg_authid")

// Verifier is what PostgreSQL keeps of a password: enough to check a SCRAM proof, not enough to make one. Treat it as a
// secret all the same, and Clear it after use.
// https://www.postgresql.org/docs/current/catalog-pg-authid.html
type Verifier struct {
	Salt       string // base64
	Iterations int
	StoredKey  [32]byte
	ServerKey  [32]byte
}

// Clear overwrites the keys.
func (v *Verifier) Clear() { clear(v.StoredKey[:]); clear(v.ServerKey[:]) }

// Verifier returns a role's SCRAM verifier, or nil if there is no such role or it has none. It reads anew at each call:
// a password that was changed counts at once. A catalog role without the right to gives ErrVerifierDenied.
func (c *Catalog) Verifier(ctx context.Context, role string) (*Verifier, error) {
	var secret []byte
	err := c.onLiveConnection(ctx, func() error {
		return c.pool.QueryRow(ctx, `SELECT a.rolpassword FROM pg_catalog.pg_authid a WHERE a.rolname = $1`, role).Scan(&secret)
	})
	defer clear(secret)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, nil // no verifier is an answer
	case isDenied(err):
		return nil, ErrVerifierDenied
	case err != nil:
		return nil, fmt.Errorf("read verifier: %w", err)
	}
	return parseVerifier(string(secret)), nil
}

// parseVerifier reads SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>, nil if it is anything else, an MD5 hash
// for example. As parse_scram_secret in PostgreSQL's auth-scram.c.
func parseVerifier(secret string) *Verifier {
	parts := strings.FieldsFunc(secret, func(r rune) bool { return r == '$' || r == ':' })
	if len(parts) != 5 || parts[0] != "SCRAM-SHA-256" {
		return nil
	}
	v := &Verifier{Salt: parts[2]}
	var err error
	if v.Iterations, err = strconv.Atoi(parts[1]); err != nil {
		return nil
	}
	if _, err := base64.StdEncoding.DecodeString(v.Salt); err != nil {
		return nil
	}
	if !decodeKey(&v.StoredKey, parts[3]) || !decodeKey(&v.ServerKey, parts[4]) {
		return nil
	}
	return v
}

func decodeKey(key *[32]byte, text string) bool {
	b, err := base64.StdEncoding.DecodeString(text)
	defer clear(b)
	return err == nil && copy(key[:], b) == len(key) && len(b) == len(key)
}
