package rewrite_test

import (
	"os"
	"strings"

	"github.com/scrimdb/scrim/rewrite"
)

// The catalogs of columns in the goldens' world are those of PostgreSQL 15.
func init() {
	attribute := rewrite.Relation{OID: 1249, Key: []string{"attrelid", "attnum"}, Columns: strings.Fields(`attrelid attname atttypid attstattarget attlen attnum
		attndims attcacheoff atttypmod attbyval attalign attstorage attcompression attnotnull atthasdef atthasmissing attidentity attgenerated attisdropped
		attislocal attinhcount attcollation attacl attoptions attfdwoptions attmissingval`)}
	for _, schema := range []string{"", "pg_catalog"} {
		world[rewrite.Name{Schema: schema, Relation: "pg_attribute"}] = attribute
	}
	for _, name := range []string{"pg_namespace", "pg_type"} {
		world[rewrite.Name{Schema: "pg_catalog", Relation: name}] = rewrite.Relation{OID: 1, Columns: []string{"oid"}}
	}
	query, err := os.ReadFile("testdata/columns.sql")
	if err != nil {
		panic(err)
	}
	for _, schema := range []string{"", "information_schema"} {
		world[rewrite.Name{Schema: schema, Relation: "columns"}] = rewrite.Relation{
			OID: 13500, Columns: []string{"table_catalog", "table_schema", "table_name", "column_name", "data_type", "numeric_precision"}, View: rewrite.NewView(string(query), 20),
		}
	}
}
