package integration_test

import (
	"fmt"
	"math/rand/v2"
)

// wisher makes up statements about people, wages and orders as a masked role may want them, by a small grammar. Nothing in it
// differs from run to run by itself: no time, no random numbers, no OIDs or transaction numbers.
type wisher struct {
	*rand.Rand
	// args are the parameters of the statement being made, if it may have any.
	args     []string
	extended bool
}

// wishes makes n dialogues, the same at every run.
func wishes(n int) []dialogue {
	g := &wisher{Rand: rand.New(rand.NewPCG(3, 4))}
	list := make([]dialogue, n)
	for i := range list {
		list[i] = g.dialogue()
	}
	return list
}

func (g *wisher) one(of ...string) string { return of[g.IntN(len(of))] }

// pick calls one of the makers: none is called in vain.
func (g *wisher) pick(of ...func() string) string { return of[g.IntN(len(of))]() }

// value is a constant or a parameter.
func (g *wisher) value(typ string, of ...string) string {
	v := g.one(of...)
	if g.extended && g.IntN(2) == 0 {
		g.args = append(g.args, v)
		return fmt.Sprintf("$%d::%s", len(g.args), typ)
	}
	return fmt.Sprintf("'%s'::%s", v, typ)
}

func (g *wisher) dialogue() dialogue {
	g.extended, g.args = false, nil
	switch extended := g.IntN(3) == 0; g.IntN(8) {
	case 0, 1, 2:
		return dialogue{messages: g.several()}
	case 3:
		return dialogue{messages: []string{"BEGIN", g.modify(), "SELECT count(*), max(income) FROM people", "ROLLBACK"}, extended: extended}
	default:
		g.extended = extended
		message := g.one("", "", "", "EXPLAIN (COSTS OFF) ", "EXPLAIN (COSTS OFF, VERBOSE) ", "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, BUFFERS OFF) ") + g.read()
		if g.IntN(10) == 0 { // never explained: plans over the system catalogs follow their own vacuums
			message, g.args = g.one(curious...), nil
		}
		return dialogue{messages: []string{message}, args: g.args, extended: extended}
	}
}

// several makes dialogues of more than one statement.
func (g *wisher) several() []string {
	q := g.query(2)
	block := func(messages ...string) []string {
		begin := g.one("BEGIN", "BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ", "BEGIN ISOLATION LEVEL SERIALIZABLE")
		return append(append([]string{begin}, messages...), "ROLLBACK")
	}
	const table = "CREATE TEMP TABLE kept (id integer PRIMARY KEY, x float8 CHECK (x < 1.7), y text UNIQUE)"
	switch g.IntN(13) {
	case 0:
		return []string{"COPY (" + q + ") TO STDOUT" + g.one("", " WITH (FORMAT csv, HEADER)", " (FORMAT binary)")}
	case 1:
		return []string{g.one("COPY people TO STDOUT", "COPY people (id, age, income) TO STDOUT", "COPY (TABLE wages) TO STDOUT", "COPY wages (amount) TO STDOUT (FORMAT csv)")}
	case 2:
		prepared := g.one("SELECT x, y FROM ("+q+") q WHERE x > $1 OR x IS NULL", "SELECT id, income, $1 FROM people WHERE id < $1", "SELECT id FROM people WHERE income > $1")
		return []string{"PREPARE wish(float8) AS " + prepared, "EXECUTE wish(0.1)", "EXECUTE wish(-3)", "EXPLAIN (COSTS OFF) EXECUTE wish(1)", "DEALLOCATE wish"}
	case 3:
		scroll, of := g.one("", "SCROLL ", "NO SCROLL "), g.top
		if scroll == "" { // the plan decides whether it can go back: never over the system catalogs
			of = g.read
		}
		declare := "DECLARE wish " + scroll + "CURSOR " + g.one("", "WITH HOLD ") + "FOR " + of()
		return []string{"BEGIN", declare, "FETCH 3 FROM wish", "MOVE 2 IN wish", "FETCH FORWARD ALL FROM wish", "FETCH PRIOR FROM wish", g.one("COMMIT", "ROLLBACK"), "CLOSE wish"}
	case 4:
		return block("DECLARE wish CURSOR FOR SELECT id, income FROM people WHERE "+g.one("id < 9", "income > 0")+" FOR UPDATE", "FETCH 2 FROM wish", "DELETE FROM people WHERE CURRENT OF wish", "SELECT count(*) FROM people")
	case 5:
		return block("CREATE TEMP TABLE kept AS "+q, "INSERT INTO kept "+g.query(1)+g.one("", " RETURNING *"),
			"UPDATE kept SET x = "+g.one("p.income", "kept.x + p.age")+" FROM people p WHERE p.note = kept.y OR "+g.cond(1),
			"DELETE FROM kept USING people p WHERE "+g.cond(1)+" AND p.id < 20 AND kept.x > p.score RETURNING kept.x", "TABLE kept")
	case 6:
		return []string{"BEGIN", "SAVEPOINT s", g.top(), "ROLLBACK TO s", g.top(), "COMMIT"}
	case 7:
		into := "INSERT INTO kept SELECT p.id, " + g.num(1) + ", " + g.text(1) + " FROM people p WHERE " + g.cond(1)
		return block(table, into+g.one("", " ON CONFLICT DO NOTHING", " ON CONFLICT (id) DO UPDATE SET x = excluded.x"), "TABLE kept")
	case 8:
		return block("CREATE TEMP TABLE kept (id integer, x float8)", "INSERT INTO kept SELECT i, i FROM generate_series(1, 100, 3) i",
			"MERGE INTO kept USING people p ON kept.id = p.id WHEN MATCHED AND "+g.cond(1)+" THEN UPDATE SET x = "+g.num(1)+
				" WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (p.id, p.income)", "TABLE kept")
	case 9: // a cheap function that says what it is called with: which rows, and in which order
		tell := "SELECT p.id, " + g.one("p.income", "p.region", "pg_temp.tell(p.score)") + " FROM " + g.source() + " WHERE "
		return block("CREATE FUNCTION pg_temp.tell(float8) RETURNS float8 LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN RAISE NOTICE 'told %', $1; RETURN $1; END $$",
			tell+g.cond(1)+" AND pg_temp.tell("+g.num(1)+"::float8) > 0", tell+"pg_temp.tell(p.id) > 3 AND "+g.cond(2)+g.order())
	case 10:
		return block("CREATE TEMP TABLE people AS SELECT * FROM public.people p WHERE "+g.cond(1), "SELECT a.id, a.income - b.income FROM people a JOIN public.people b USING (id)", g.top())
	case 11:
		return []string{"LISTEN wish", "SELECT count(pg_notify('wish', concat_ws('|', x, y))) FROM (" + q + ") q", "UNLISTEN wish"}
	}
	return []string{g.top() + "; " + g.top()} // in one message
}

// modify changes the protected table itself.
func (g *wisher) modify() string {
	return g.one("UPDATE people SET region = 'XX'", "UPDATE people SET note = income::text", "UPDATE people p SET note = "+g.text(1)+" WHERE "+g.cond(1)+" RETURNING id, note",
		"UPDATE people p SET region = 'YY' WHERE "+g.cond(2), "DELETE FROM people p WHERE "+g.cond(2), "DELETE FROM people p WHERE "+g.cond(1)+" RETURNING p.*", "UPDATE people SET income = 1",
		"INSERT INTO people (id, region) VALUES (1, 'EU')", "UPDATE wages SET person = 1", "DELETE FROM people USING wages w WHERE w.person = people.id AND people.score > 0",
		"MERGE INTO people p USING wages w ON w.person = p.id WHEN MATCHED AND w.amount[1] > 0 THEN DELETE")
}

// top makes a statement that does not change anything.
func (g *wisher) top() string {
	return g.pick(g.read, g.read, g.read, g.read, g.read, g.read, func() string { return g.one(curious...) })
}

// read makes a query of the tables.
func (g *wisher) read() string {
	return g.pick(
		func() string { return g.query(3) },
		func() string { return g.query(3) },
		func() string {
			return "SELECT p.*, " + g.num(2) + " FROM " + g.source() + " WHERE " + g.cond(2) + g.order() + " LIMIT 20"
		},
		func() string {
			return "SELECT " + g.one("p", "to_jsonb(p)", "p::text", "ROW(p.*)", "(p).income", "row_to_json(p)", "hashtext(p::text)", "p IS NULL", "num_nulls(p.age, p.income)", "pg_column_size(p.income)", "p = p", "pg_typeof(p)") +
				" FROM " + g.source() + " WHERE " + g.cond(1) + g.one("", " ORDER BY p") + " LIMIT 20"
		},
		func() string {
			return "SELECT p.id, p.income FROM people p WHERE " + g.cond(1) + g.order() + " LIMIT 20 FOR " + g.one("UPDATE", "SHARE", "KEY SHARE", "NO KEY UPDATE SKIP LOCKED")
		},
		func() string {
			return "SELECT p.id, p.age, p.income, p.score FROM people p WHERE p.id " + g.one("< 30", "% 7 = 1", "= 17") + " ORDER BY p.id"
		},
		func() string {
			return "SELECT id, amount" + g.one("", ", person", "[1]", ", amount[2:3]") + " FROM wages" + g.one("", " WHERE amount IS NULL", " WHERE amount[1] > 0.1", " ORDER BY amount", " ORDER BY id DESC LIMIT 9")
		},
		func() string { return "SELECT amount, count(*) FROM wages GROUP BY amount" },
		func() string {
			return "SELECT * FROM people TABLESAMPLE " + g.one("SYSTEM", "BERNOULLI") + " (40) REPEATABLE (3)" + g.one("", " WHERE income > 0", " ORDER BY score")
		},
		func() string {
			return "SELECT ctid, tableoid::regclass, income FROM people WHERE " + g.one("income > 0", "id < 9")
		},
	)
}

// curious statements look for what else may tell of raw values. Most are refused.
var curious = []string{
	"SELECT attname, n_distinct FROM pg_stats WHERE tablename IN ('people', 'wages') ORDER BY 1", "SELECT stavalues1 FROM pg_statistic",
	"SELECT relname, relkind, relpages FROM pg_class WHERE relname IN ('people', 'wages') ORDER BY 1", "SELECT pg_relation_size('people')",
	"SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'people' ORDER BY 1",
	"SELECT * FROM information_schema.column_privileges WHERE table_name = 'people' ORDER BY 1, 2, 3, 4, 5, 6, 7",
	"SELECT has_column_privilege('people', 'income', 'SELECT')", "SELECT currtid2('people', '(0,1)')",
	"DO $$ BEGIN PERFORM max(income) FROM people; RAISE NOTICE 'read'; END $$",
	"SELECT query_to_xml('SELECT income FROM people', true, true, '')", "SELECT table_to_xml('people', true, true, '')",
	"SELECT * FROM scrim_runtime.people", "CREATE TEMP VIEW v AS SELECT income FROM people",
	"SELECT * FROM invoked", "SELECT count(*) FROM invoked", "SELECT id FROM invoked WHERE income > 0",
	"SELECT i FROM invoked i ORDER BY income, id", "EXPLAIN (VERBOSE) SELECT sum(income) FROM invoked", "COPY invoked TO STDOUT", "DELETE FROM invoked WHERE income > 0",
	"SELECT 1 / (income - income)::int FROM invoked", "SELECT region, max(income) FROM invoked GROUP BY 1 ORDER BY 1",
	"SELECT * FROM scrim_runtime.traits", "SELECT count(*) FROM scrim_runtime.traits", "SELECT t FROM scrim_runtime.traits t ORDER BY features, id",
	"EXPLAIN (VERBOSE) SELECT max(features) FROM scrim_runtime.traits", "COPY scrim_runtime.traits TO STDOUT", "DELETE FROM scrim_runtime.traits WHERE features[1] > 0",
	"SELECT 1 / (features[1] - features[1])::int FROM scrim_runtime.traits", "SELECT features, count(*) FROM scrim_runtime.paid GROUP BY 1 ORDER BY 1",
	"SELECT p.id, t.features FROM people p JOIN scrim_runtime.traits t ON t.id = p.id AND t.features[1] = p.age ORDER BY 1",
	"LOCK people", "TRUNCATE people", "ANALYZE people", "SELECT p.nothing FROM people p",
	"SHOW MASKING POLICIES", "EXPLAIN MASKING SELECT max(income) FROM people",
}

// query makes a SELECT of x, a float8, and y, a text.
func (g *wisher) query(depth int) string {
	if depth == 0 {
		return "SELECT " + g.num(1) + "::float8 AS x, " + g.text(1) + " AS y FROM people p WHERE " + g.cond(1)
	}
	d := depth - 1
	return g.pick(
		func() string {
			return "SELECT " + g.num(2) + "::float8 AS x, " + g.text(2) + " AS y FROM " + g.source() + " WHERE " + g.cond(2) + g.order() + g.limit()
		},
		func() string {
			return "SELECT " + g.aggregate() + "::float8 AS x, " + g.text(1) + " AS y FROM " + g.source() + " WHERE " + g.cond(1) + " GROUP BY " + g.one("2", "2", "ROLLUP (2)", "2, p.vip", "GROUPING SETS ((2), ())") + g.one("", " HAVING "+g.aggregate()+" > 0", " HAVING count(*) > 1") + g.limit()
		},
		func() string {
			return "SELECT (" + g.one("sum", "max", "lag", "first_value", "avg") + "(" + g.num(1) + "::float8) OVER (PARTITION BY " + g.one("p.region", g.cond(0), g.text(0)) + " ORDER BY " + g.num(1) + ", p.id" + g.one("", " ROWS 3 PRECEDING", " DESC") + ")" + ")::float8 AS x, " + g.text(0) + " AS y FROM " + g.source() + " WHERE " + g.cond(1) + g.limit()
		},
		func() string {
			return "SELECT " + g.one("rank()", "ntile(4)", "cume_dist()", "row_number()") + " OVER (ORDER BY " + g.num(1) + ")::float8 AS x, " + g.text(0) + " AS y FROM people p" + g.limit()
		},
		func() string {
			return "(" + g.query(d) + ") " + g.one("UNION", "UNION ALL", "INTERSECT", "EXCEPT", "EXCEPT ALL") + " (" + g.query(d) + ")" + g.one("", " ORDER BY 1, 2", " ORDER BY y DESC", " LIMIT 7")
		},
		func() string {
			return "SELECT q.x " + g.one("+ 1", "* q.x", "") + " AS x, " + g.one("q.y", "q::text", "upper(q.y)") + " AS y FROM (" + g.query(d) + ") q WHERE " + g.one("q.x > 0", "q.x IS NULL", "q.y LIKE '%E%'", "true") + g.one("", " ORDER BY q.x, q.y") + g.limit()
		},
		func() string {
			return "WITH " + g.one("", "RECURSIVE ") + "q AS " + g.one("", "MATERIALIZED ", "NOT MATERIALIZED ") + "(" + g.query(d) + ") SELECT " + g.one("max(a.x)", "sum(a.x)", "count(DISTINCT a.x)") + "::float8 AS x, a.y FROM q a" + g.one("", " LEFT JOIN q b ON a.x < b.x") + " GROUP BY a.y" + g.limit()
		},
		func() string {
			return "SELECT DISTINCT " + g.one("", "ON (p.region) ", "ON (p.income > 0) ") + g.num(1) + "::float8 AS x, " + g.text(1) + " AS y FROM " + g.source() + " WHERE " + g.cond(1) + g.limit()
		},
		func() string {
			return "SELECT a.x, b.y FROM (" + g.query(d) + ") a " + g.one("JOIN", "LEFT JOIN", "FULL JOIN") + " (" + g.query(d) + ") b " + g.one("ON a.x = b.x", "USING (y)", "ON a.y = b.y AND a.x = b.x") + g.limit()
		},
		func() string {
			return "SELECT l.x, l.y FROM people p" + g.one(", ", " CROSS JOIN ") + "LATERAL (SELECT p.income::float8 + k.x AS x, k.y FROM (" + g.query(0) + ") k WHERE k.x > p.age LIMIT 2) l" + g.limit()
		})
}

func (g *wisher) source() string {
	return g.pick(
		func() string { return "people p" }, func() string { return "ONLY public.people AS p" },
		func() string {
			return g.one("invoked p", "invoked p", "public.invoked p JOIN people s USING (id, region, age, income, score, vip, note)")
		},
		func() string {
			return "people p " + g.one("JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN") + " wages w ON w.person = p.id"
		},
		func() string {
			return "people p JOIN people s ON " + g.one("s.id = p.id + 1", "s.income = p.income", "s.age = p.age AND s.id > p.id", "s.region = p.region AND s.score > p.score AND s.id < 20")
		},
		func() string { return "(SELECT * FROM people p WHERE " + g.cond(1) + ") p" },
		func() string { return "people p NATURAL " + g.one("JOIN", "LEFT JOIN") + " orders" },
		func() string { return "orders o LEFT JOIN people p ON p.id = o.customer_id AND " + g.cond(0) },
		func() string {
			return "people p JOIN wages w ON w.person = p.id AND " + g.one("w.amount[1] > p.income", "w.amount[2] < 0.5", "true")
		})
}

func (g *wisher) order() string {
	return g.one("", " ORDER BY p.id", " ORDER BY p.income, p.id", " ORDER BY p.score DESC NULLS LAST, p.region", " ORDER BY 1", " ORDER BY 1, 2 DESC", " ORDER BY p.age + p.id")
}

func (g *wisher) limit() string { return g.one("", " LIMIT 40", " LIMIT 5 OFFSET 2", " LIMIT 20") }

func (g *wisher) aggregate() string {
	return g.pick(
		func() string {
			return g.one("max", "min", "sum", "avg", "count", "stddev") + "(" + g.one("", "DISTINCT ") + g.num(1) + ")"
		},
		func() string { return "count(*) FILTER (WHERE " + g.cond(1) + ")" },
		func() string { return "corr(p.age, p.income)" },
		func() string { return "percentile_disc(0.5) WITHIN GROUP (ORDER BY " + g.num(1) + ")" },
		func() string { return "length(string_agg(" + g.text(1) + ", ',' ORDER BY p.income))" })
}

func (g *wisher) num(depth int) string {
	if depth == 0 || g.IntN(3) == 0 {
		return g.pick(func() string {
			return g.one("p.age", "p.income", "p.score", "p.income", "p.id", "p.id % 7", "p.paid", "p.paid")
		}, func() string { return g.value("float8", "0.3", "-0.1", "7") })
	}
	d := depth - 1
	return g.pick(
		func() string {
			return "(" + g.num(d) + g.one(" + ", " - ", " * ", " + ", " - ", " * ", " / ") + g.num(d) + ")"
		},
		func() string { return g.one("abs", "-", "ceil", "sign", "cbrt", "atan", "exp") + "(" + g.num(d) + ")" },
		func() string {
			return "(" + g.num(d) + ")::" + g.one("numeric(9,3)", "real", "integer", "text::float8")
		},
		func() string { return "coalesce(nullif(" + g.num(d) + ", " + g.num(d) + "), 0)" },
		func() string { return "CASE WHEN " + g.cond(d) + " THEN " + g.num(d) + " ELSE " + g.num(d) + " END" },
		func() string { return g.one("greatest", "least") + "(" + g.num(d) + ", " + g.num(d) + ")" },
		func() string { return "length(" + g.text(d) + ")" },
		func() string {
			return "(SELECT " + g.one("max(k.income)", "min(k.age)", "count(*)", "avg(k.score)") + " FROM people k WHERE k.id < p.id" + g.one("", " AND k.income > p.income") + ")"
		},
		func() string {
			return g.one("1 / (p.id - 5)", "ln(p.income)", "sqrt(p.age)", "p.note::integer", "1 / (p.income - p.income)", "width_bucket(p.age, -1, 1, 5)", "(p.income::text)::integer", "(SELECT w.amount[1] FROM wages w WHERE w.person = p.id)")
		})
}

func (g *wisher) text(depth int) string {
	if depth == 0 || g.IntN(3) == 0 {
		return g.one("p.region", "p.note", "p.region || p.note", "p.income::text", "p.phone", "p.born::text")
	}
	d := depth - 1
	return g.pick(
		func() string { return g.one("upper", "md5", "quote_literal", "reverse") + "(" + g.text(d) + ")" },
		func() string { return "left(" + g.text(d) + ", 4)" },
		func() string { return "(" + g.num(d) + ")::text" },
		func() string { return "(" + g.cond(d) + ")::text" },
		func() string { return "(" + g.text(d) + " || " + g.text(d) + ")" },
		func() string { return "format('%s/%L', " + g.num(d) + ", " + g.text(d) + ")" },
		func() string {
			return g.one("p::text", "to_jsonb(p)::text", "jsonb_build_array(p.age, p.income)::text")
		},
		func() string { return "to_char(" + g.num(d) + ", 'S990.999')" })
}

func (g *wisher) cond(depth int) string {
	if depth == 0 || g.IntN(3) == 0 {
		return g.one("p.income > 0.1", "p.age <= 0.5", "p.id < 40", "p.region = 'EU'", "p.vip", "p.score BETWEEN -0.3 AND 0.3", "p.id % 3 = 1", "p.income IS NOT NULL", "p.age IS NULL", "p.income IS DISTINCT FROM p.score",
			"p.note LIKE 'note 1%'", "true", "p.income::text LIKE '%1%'", "(p.age, p.income) > (0.1, 0.2)", "p.paid > 100", "p.phone LIKE '1%'", "p.born < '2020-06-01'", "p.id IN (3, 5, 8, 40)")
	}
	d := depth - 1
	return g.pick(
		func() string { return "(" + g.cond(d) + g.one(" AND ", " OR ") + g.cond(d) + ")" },
		func() string { return "NOT (" + g.cond(d) + ")" },
		func() string { return "(" + g.num(d) + g.one(" < ", " >= ", " = ", " <> ") + g.num(d) + ")" },
		func() string { return "(" + g.num(d) + " > " + g.value("float8", "0.2", "-0.4") + ")" },
		func() string { return "(" + g.cond(d) + ") IS " + g.one("TRUE", "NOT TRUE", "UNKNOWN") },
		func() string { return "p.income IN (SELECT k.income FROM people k WHERE k.id < 20)" },
		func() string {
			return g.one("EXISTS", "NOT EXISTS") + " (SELECT 1 FROM wages k WHERE k.person = p.id" + g.one("", " AND k.amount[1] > p.income", " AND k.amount IS NOT NULL") + ")"
		},
		func() string {
			return "p.age " + g.one("> ALL", "= ANY", "<= ANY") + " (SELECT k.age FROM people k WHERE k.region = p.region AND k.id < 20)"
		},
		func() string { return "(" + g.text(d) + g.one(" < ", " LIKE ", " = ") + g.text(d) + ")" })
}

// afterAnalyze asks what statistics of raw values could tell. Which plans they make is excepted.
func afterAnalyze() []dialogue {
	var list []dialogue
	for _, q := range []string{
		`SELECT * FROM pg_stats WHERE tablename IN ('people', 'wages') ORDER BY tablename, attname`, `SELECT * FROM pg_stats_ext`, `SELECT * FROM pg_stats_ext_exprs`, `SELECT * FROM pg_statistic`, `SELECT * FROM pg_statistic_ext_data`,
		`SELECT relname, relpages, reltuples FROM pg_class WHERE relname ~ 'people|wages' ORDER BY relname`, `SELECT * FROM people ORDER BY id`, `SELECT income, count(*) FROM people GROUP BY income ORDER BY 1`, `SELECT paid, count(*) FROM people GROUP BY paid ORDER BY 1`, `EXPLAIN (COSTS OFF) SELECT id FROM people WHERE paid = 100 AND phone > '1'`,
		`SELECT p.id, w.id FROM people p JOIN wages w ON w.amount[1] > p.income ORDER BY 1, 2`, `EXPLAIN SELECT id FROM people WHERE region = 'EU'`,
	} {
		list = append(list, dialogue{messages: []string{q}})
	}
	return list
}
