//go:build drivers

package integration_test

import (
	"fmt"
	"net"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestNonInterferenceSqlsmith is TestNonInterference with statements that sqlsmith makes up.
func TestNonInterferenceSqlsmith(t *testing.T) {
	for _, w := range worlds {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			w.compareTwins(t, w.sqlsmith(t, fuzz(t, 80)))
		})
	}
}

// standInSQL has what the masked role sees, with the types that it sees: sqlsmith looks for operators that fit.
const standInSQL = `
CREATE TABLE people (id integer PRIMARY KEY, region text NOT NULL, age double precision, income double precision, score double precision, vip boolean, note text);
CREATE TABLE wages (id integer PRIMARY KEY, person integer, amount real[], memo text);
CREATE TABLE orders (id integer PRIMARY KEY, customer_id integer, amount numeric, region text);
GRANT SELECT ON people, wages, orders TO analyst`

// volatile finds what has another answer at each call: time, random numbers, numbers of processes and transactions, and what the
// server counts.
var volatile = regexp.MustCompile(`random|timestamp\(|\b(now|timeofday|pg_backend_pid|pg_conf_load_time|pg_postmaster_start_time|inet_client_port|pg_current_wal_\w*lsn)\(|txid_|xact|snapshot|\bpg_stat`)

// harmful finds what reaches beyond the session: it stops others, waits for them, or leaves something behind; and types that no value has.
var harmful = regexp.MustCompile(`pg_terminate_backend|pg_cancel_backend|advisory|pg_sleep|\blo_|set_config|as "?any(multi)?(range|enum)`)

// sample finds samples without a seed.
var sample = regexp.MustCompile(`tablesample \w+ \([\d.]+\)`)

// sqlsmith makes n statements. It only looks at a database; they are run by others.
func (w *world) sqlsmith(t *testing.T, n int) []dialogue {
	t.Helper()
	program, err := exec.LookPath("sqlsmith")
	if err != nil {
		t.Fatal("sqlsmith is missing: install Debian's package sqlsmith (apt-get install sqlsmith)")
	}
	name := fmt.Sprintf("stand_in_%d", w.made.Add(1))
	if err := w.superuser(t.Context(), "postgres", "CREATE DATABASE "+name+" TEMPLATE template0"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.superuser(t.Context(), "postgres", "DROP DATABASE "+name); err != nil {
			t.Error(err)
		}
	}()
	if err := w.superuser(t.Context(), name, strings.Split(standInSQL, ";")...); err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(w.server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "--dry-run", "--seed=1", "--exclude-catalog", "--max-queries="+strconv.Itoa(3*n+20),
		fmt.Sprintf("--target=host=%s port=%s user=analyst password=analyst dbname=%s", host, port, name))
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("sqlsmith: %v", err)
	}
	var list []dialogue
	for statement := range strings.SplitSeq(string(out), ";\n") {
		statement = strings.TrimSpace(statement)
		if statement == "" || volatile.MatchString(statement) || harmful.MatchString(statement) || len(list) == n {
			continue
		}
		d := dialogue{messages: []string{sample.ReplaceAllString(statement, "$0 repeatable (1)")}, extended: len(list)%3 == 0}
		if verb := strings.ToLower(statement[:6]); verb != "select" && !strings.HasPrefix(verb, "with") {
			d.messages = []string{"BEGIN", d.messages[0], "ROLLBACK"}
		}
		list = append(list, d)
	}
	if len(list) < n {
		t.Logf("only %d of %d statements", len(list), n)
	}
	return list
}
