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
	onServers(t, func(t *testing.T, w *world) { w.compareTwins(t, w.sqlsmith(t, fuzz(t, 40))) })
}

// standInSQL has what the masked role sees, with the types that it sees: sqlsmith looks for operators that fit.
const standInSQL = `
CREATE TABLE people (id integer PRIMARY KEY, region text NOT NULL, age double precision, income double precision, score double precision, vip boolean, note text, phone text, born date, paid integer);
CREATE TABLE wages (id integer PRIMARY KEY, person integer, amount real[], memo text);
CREATE TABLE orders (id integer PRIMARY KEY, customer_id integer, amount numeric, region text);
GRANT SELECT ON people, wages, orders TO analyst`

// leaveOutSQL takes functions and operators out of sqlsmith's sight. Volatile ones: random numbers, the time, what reaches
// beyond the session (locks, large objects, other sessions' ends). Others that have another answer in each session or at
// each time: now, numbers of processes, transactions and ports, positions in the log, and what the server counts. And those of
// polymorphic ranges and enums, of which sqlsmith makes only casts that fail.
const leaveOutSQL = `
SET allow_system_table_mods = on;
DELETE FROM pg_proc WHERE provolatile = 'v' OR proname ~ '^(now|pg_backend_pid|inet_client_port|pg_postmaster_start_time|pg_conf_load_time|pg_last_.*|pg_stat_.*)$'
	OR proname ~ 'timestamp$' AND pronargs = 0 OR proname ~ 'txid|xact|snapshot|_lsn$' OR proname = 'age' AND pronargs = 1
	OR proargtypes::oid[] && '{anyrange,anymultirange,anyenum}'::regtype[]::oid[];
DELETE FROM pg_operator WHERE ARRAY[oprleft, oprright] && '{anyrange,anymultirange,anyenum}'::regtype[]::oid[]`

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
	if err := w.superuser(t.Context(), name, strings.Split(standInSQL+";"+leaveOutSQL, ";")...); err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(w.server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, "--dry-run", "--seed=1", "--exclude-catalog", "--max-queries="+strconv.Itoa(n),
		fmt.Sprintf("--target=host=%s port=%s user=analyst password=analyst dbname=%s", host, port, name))
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("sqlsmith: %v", err)
	}
	var list []dialogue
	for statement := range strings.SplitSeq(string(out), ";\n") {
		statement = strings.TrimSpace(statement)
		if statement == "" {
			continue
		}
		d := dialogue{messages: []string{sample.ReplaceAllString(statement, "$0 repeatable (1)")}, extended: len(list)%3 == 0}
		if verb := strings.ToLower(statement[:6]); verb != "select" && !strings.HasPrefix(verb, "with") {
			d.messages = []string{"BEGIN", d.messages[0], "ROLLBACK"}
		}
		list = append(list, d)
	}
	return list
}
