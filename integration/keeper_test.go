package integration_test

import (
	"context"
	"strings"
	"testing"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/native"
)

// TestWithoutSuperuser: where `scrim init` is run by a role that is no superuser, but owns the database and may make roles, seals are bytea, and masks of all kinds are what they are elsewhere.
func TestWithoutSuperuser(t *testing.T) {
	t.Parallel()
	onServers(t, func(t *testing.T, like *world) {
		server, err := native.StartServer(t.Context(), native.ServerConfig{Binaries: like.binaries, Log: testLog(), Settings: map[string]string{"fsync": "off"}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = server.Stop(context.WithoutCancel(t.Context())) })
		w := &world{name: like.name, binaries: like.binaries, server: server, models: t.TempDir(), rt: like.rt}
		const keeper, database = "keeper", "kept"
		statements := []string{`CREATE ROLE keeper LOGIN CREATEROLE PASSWORD 'keeper'`, `CREATE DATABASE kept OWNER keeper`}
		for _, role := range []string{olga, analyst, risk} {
			statements = append(statements, `CREATE ROLE `+role+` LOGIN PASSWORD '`+role+`'`)
		}
		if err := w.superuser(t.Context(), "postgres", statements...); err != nil {
			t.Fatal(err)
		}
		kept := dial(t, server.DSN(keeper, keeper, database))
		result, err := catalog.Init(t.Context(), kept)
		if err != nil || result.Opaque {
			t.Fatalf("%+v %s", result, explain(err))
		}
		e, err := openProxy(t.Context(), server.Addr(), server.DSN(keeper, keeper, database), w.models, w.rt)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(e.close)
		e.world, e.database = w, database
		e.exec(t, kept, `GRANT scrim_admin TO olga`, `GRANT CREATE ON SCHEMA public TO olga`)
		owner := e.connect(t, olga)
		e.exec(t, owner, templateSQL, `GRANT SELECT ON customers TO keeper WITH GRANT OPTION`, `DROP INDEX customers_region`) // for training
		before := mustText(t, kept, allPrivileges)
		e.trains(t)
		e.exec(t, owner, testEncoder, testPolicy, `CREATE MASKING POLICY notes ON customers ("Note") USING (scrim.partial("Note", 1, '*', 1))`,
			`CREATE MASKING POLICY regions ON customers (region) EXCEPT risk USING (scrim.hash(region))`)

		reader := e.connect(t, analyst)
		codes := mustText(t, reader, `SELECT income, "Note", length(region) FROM customers WHERE id = 2000`)
		staged := mustText(t, reader, `SELECT max(income), max("Note"), max(length(region)) FROM customers WHERE id = 2000`)
		if codes != staged || !strings.HasSuffix(codes, "|t*y|64\n") { // "the canary"
			t.Errorf("deferred %s, staged %s", codes, staged)
		}
		if got := mustText(t, e.connect(t, risk), `SELECT income, "Note", region FROM customers WHERE id = 2000`); got != "2342108.75|t*y|EU\n" {
			t.Errorf("who is exempt from two of three policies sees %s", got)
		}
		for _, column := range []string{"income", `"Note"`, "region"} {
			if got, err := text(t, e.directly(t, analyst), `SELECT `+column+` FROM customers`); code(err) != "42501" {
				t.Errorf("around the proxy: %s %s", got, explain(err))
			}
		}
		e.exec(t, owner, `ALTER MASKING POLICY p ON customers ROTATE KEY`, `ALTER MASKING POLICY notes ON customers DISABLE`, `ALTER MASKING POLICY notes ON customers ENABLE`)
		if got := mustText(t, reader, `SELECT income, "Note", length(region) FROM customers WHERE id = 2000`); got != codes {
			t.Errorf("%s was %s", got, codes)
		}
		checkup, err := catalog.Doctor(t.Context(), kept)
		if err != nil {
			t.Fatal(explain(err))
		}
		for _, f := range checkup.Findings {
			if f.Severity == catalog.SeverityError {
				t.Errorf("doctor: %+v", f)
			}
		}
		e.exec(t, owner, `DROP MASKING POLICY regions ON customers`, `DROP MASKING POLICY p ON customers`, `DROP MASKING POLICY notes ON customers`)
		if after := mustText(t, kept, allPrivileges); after != before {
			t.Errorf("privileges: %s", difference(before, after))
		}
	})
}
