package integration_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scrimdb/scrim/training"
	"github.com/scrimdb/scrim/udf"
)

// TestTrainingErrors: what PostgreSQL says when rows cannot be read can quote one, and jobs and logs are read by others than the
// requester.
func TestTrainingErrors(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner, admin := e.connect(t, olga), e.admin(t)
		log := &memory{}
		store, err := udf.NewStore(e.models)
		if err != nil {
			t.Fatal(err)
		}
		w, err := training.Open(t.Context(), training.Config{DSN: e.catalogDSN, Library: udf.NewLibrary(e.rt, store), Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
		if err != nil {
			t.Fatal(err)
		}
		running, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = w.Run(running) }()
		defer func() { stop(); <-done }()

		e.exec(t, owner, `CREATE VIEW broken AS SELECT CASE WHEN id = 2000 THEN ('x' || age)::float8 ELSE age END AS age FROM customers`,
			`CREATE FUNCTION says(x int) RETURNS float8 LANGUAGE plpgsql AS $$ BEGIN IF x > 100 THEN RAISE 'age is %', x USING HINT = x::text, DETAIL = x::text, ERRCODE = '42501'; END IF; RETURN x; END $$`,
			`CREATE VIEW telling AS SELECT says(age) AS age FROM customers`)
		for view, want := range map[string]string{"broken": "22P02", "telling": "42501"} {
			_, err := text(t, owner, fmt.Sprintf(`CREATE ENCODER %[1]s ON %[1]s (age) WITH (latent_dims = 1, epochs = 1) WAIT`, view))
			if code(err) != want || strings.Contains(explain(err), "4815162") || !strings.Contains(explain(err), view) {
				t.Errorf("%s: %v, want %s, without a value", view, explain(err), want)
			}
		}
		reader := extraRole(t, e, "scrim_admin")
		for who, got := range map[string]string{
			"another admin": mustText(t, e.connect(t, reader), `SELECT j FROM scrim.training_jobs j WHERE j.encoder IN ('broken', 'telling')`),
			"the queue":     mustText(t, admin, `SELECT j FROM scrim_state.river_job j`),
		} {
			if strings.Contains(got, "4815162") || !strings.Contains(got, "broken") {
				t.Errorf("%s reads %s", who, got)
			}
		}
		if got := log.String(); strings.Contains(got, "4815162") || !strings.Contains(got, "encoder=broken") {
			t.Errorf("the log:\n%s", got)
		}
	})
}

// extraRole is a role of the test's own: those of the template are other tests' too.
func extraRole(t *testing.T, e *env, group string) string {
	t.Helper()
	name := "extra_" + group + "_" + e.database
	e.exec(t, e.admin(t), `CREATE ROLE `+name+` LOGIN PASSWORD '`+cheapVerifier(name)+`' IN ROLE `+group)
	t.Cleanup(func() {
		if err := e.superuser(context.Background(), e.database, `DROP OWNED BY `+name, `DROP ROLE `+name); err != nil {
			t.Error(err)
		}
	})
	return name
}

// memory is a log that is kept.
type memory struct {
	mu   sync.Mutex
	text strings.Builder
}

func (m *memory) Write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.text.Write(p)
}

func (m *memory) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.text.String()
}

// TestTrainerUnderRowSecurity: that training reads all rows of an owner's table with row security opens nobody else's to that owner's code.
func TestTrainerUnderRowSecurity(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		// The trainer becomes a member of the owner, who is a role of this test's own: membership is the whole cluster's.
		admin, own := e.admin(t), extraRole(t, e, "scrim_admin")
		e.exec(t, admin, `ALTER TABLE customers OWNER TO `+own, `GRANT CREATE ON SCHEMA public TO `+own, `UPDATE scrim_state.encoders SET creator = '`+own+`'::regrole`)
		owner := e.connect(t, own)
		e.exec(t, admin, `CREATE TABLE others (secret float8)`, `INSERT INTO others VALUES (4815162)`, `ALTER TABLE others ENABLE ROW LEVEL SECURITY`, `GRANT SELECT ON others TO PUBLIC`)
		e.exec(t, owner,
			`CREATE FUNCTION spy() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN
				PERFORM pg_notify('spy', format('%s reads %s', session_user, (SELECT count(*) FROM public.others)));
				RETURN true;
			EXCEPTION WHEN insufficient_privilege THEN PERFORM pg_notify('spy', format('%s may not', session_user)); RETURN true; END $$`,
			`CREATE INDEX trap ON customers (id) WHERE spy()`, `ALTER TABLE customers ENABLE ROW LEVEL SECURITY`)
		e.exec(t, admin, `LISTEN spy`)
		e.trains(t)
		e.exec(t, owner, `TRAIN ENCODER enc WAIT`)
		if got := mustText(t, owner, `SELECT trained_on FROM scrim.encoders WHERE name = 'enc'`); got != "2000\n" {
			t.Errorf("trained on %s", got)
		}
		for {
			n, err := admin.WaitForNotification(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(n.Payload, "scrim_trainer") {
				continue
			}
			if !strings.HasSuffix(n.Payload, " may not") && !strings.HasSuffix(n.Payload, " reads 0") {
				t.Errorf("the owner's code in the trainer's session: %s", n.Payload)
			}
			break
		}
		consistent(t, e, "enc")

		// Beyond the owner's own rights nothing is read, unless a superuser owns the table.
		e.exec(t, owner, `ALTER TABLE customers FORCE ROW LEVEL SECURITY`)
		if _, err := text(t, owner, `TRAIN ENCODER enc`); code(err) != "42501" {
			t.Errorf("the owner, under row security: %v", explain(err))
		}
		if _, err := text(t, admin, `SELECT scrim.train_encoder('enc')`); code(err) != "0A000" {
			t.Errorf("a superuser, of a table with forced row security: %v", explain(err))
		}
		e.exec(t, admin, `INSERT INTO others SELECT i FROM generate_series(1, 200) i`)
		job := strings.TrimSpace(mustText(t, admin, `SELECT scrim.create_encoder('theirs', 'others', '{secret}', latent_dims => 1, epochs => 1)`))
		until(t, admin, stateOf(job), "completed|1\n")
		consistent(t, e, "theirs")
	})
}

// TestQueueIsNotEverybodys: no notice that any role can send cancels a training or stops the queue.
func TestQueueIsNotEverybodys(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner := e.connect(t, olga)
		stranger := e.directly(t, guest)
		training, told := make(chan struct{}), make(chan struct{})
		var once sync.Once
		stop, err := startWorker(t.Context(), e, func(step string) {
			if step == "train" {
				once.Do(func() { close(training); <-told })
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		job := startTraining(t, owner, `CREATE ENCODER long ON customers (age, income) WITH (epochs = 400, batch_size = 16)`)
		<-training
		for _, action := range []string{`{"action":"cancel","job_id":` + job + `,"queue":"training"}`, `{"action":"pause","queue":"*"}`, `{"action":"pause","queue":"training"}`} {
			mustText(t, stranger, `SELECT pg_notify('scrim_state.river_control', '`+action+`')`)
		}
		mustText(t, stranger, `SELECT pg_notify('scrim_state.river_leadership', '{"action":"request_resign"}')`)
		close(told)
		until(t, owner, `SELECT state, attempt, version FROM scrim.training_jobs WHERE id = `+job, "completed|1|1\n")
		job = startTraining(t, owner, `TRAIN ENCODER enc`)
		until(t, owner, `SELECT state FROM scrim.training_jobs WHERE id = `+job, "completed\n")
	})
}

// TestOthersTrainings: an admin cancels trainings of encoders that it may use, and no others; and who is no admin any more trains no more.
func TestOthersTrainings(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner, admin := e.connect(t, olga), e.admin(t)
		name := extraRole(t, e, "scrim_admin")
		e.exec(t, owner, `GRANT SELECT ON customers TO `+name)
		other := e.connect(t, name)
		job := startTraining(t, owner, `CREATE ENCODER first ON customers (age, income) WITH (latent_dims = 2, epochs = 1)`)
		if _, err := text(t, other, `CANCEL TRAINING JOB '`+job+`'`); code(err) != "42501" {
			t.Errorf("another admin cancels: %v", explain(err))
		}
		e.trains(t)
		until(t, owner, stateOf(job), "completed|1\n")

		e.exec(t, other, `CREATE ENCODER theirs ON customers (age, income) WITH (latent_dims = 2, epochs = 1) WAIT`, `ALTER ENCODER theirs SET SCHEDULE '1 second'`)
		e.exec(t, admin, `REVOKE scrim_admin FROM `+name)
		until(t, owner, `SELECT count(*) > 0 FROM scrim.training_jobs WHERE encoder = 'theirs' AND state = 'failed' AND code = '42501'`, "t\n")
		before := mustText(t, owner, `SELECT version FROM scrim.encoders WHERE name = 'theirs'`)
		until(t, owner, `SELECT count(*) > 2 FROM scrim.training_jobs WHERE encoder = 'theirs' AND state = 'failed' AND code = '42501'`, "t\n")
		if got := mustText(t, owner, `SELECT version FROM scrim.encoders WHERE name = 'theirs'`); got != before {
			t.Errorf("trained on by its schedule: version %s", got)
		}
		e.exec(t, admin, `DELETE FROM scrim_state.training_schedules`)
		until(t, owner, `SELECT count(*) FROM scrim.training_jobs WHERE state IN ('queued', 'running')`, "0\n")
	})
}

// TestScheduleOfAnother: a schedule that cannot be kept does not keep the others.
func TestScheduleOfAnother(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner := e.connect(t, olga)
		e.trains(t)
		e.exec(t, owner, `CREATE ENCODER never ON customers (age, income) WITH (latent_dims = 2, epochs = 1) WAIT`)
		if _, err := text(t, owner, `ALTER ENCODER never SET SCHEDULE '1000000 years'`); code(err) != "22023" {
			t.Errorf("a schedule beyond the end of time: %v", explain(err))
		}
		e.exec(t, e.admin(t), `INSERT INTO scrim_state.training_schedules (encoder_id, requester, schedule, is_cron) SELECT id, creator, '1000000 years', false FROM scrim_state.encoders WHERE name = 'never'
			ON CONFLICT DO NOTHING`)
		e.exec(t, owner, `ALTER ENCODER enc SET SCHEDULE '1 second'`)
		const ran = `SELECT count(*) FROM scrim.training_jobs WHERE encoder = 'enc' AND state = 'completed' AND reason = 'schedule'`
		until(t, owner, strings.Replace(ran, "count(*)", "count(*) > 0", 1), "t\n")

		// Nor does one that somebody is about to change.
		e.exec(t, owner, `ALTER ENCODER never SET SCHEDULE '1 second'`)
		until(t, owner, `SELECT count(*) > 0 FROM scrim.training_jobs WHERE encoder = 'never' AND state = 'completed' AND reason = 'schedule'`, "t\n")
		holder := e.connect(t, olga)
		e.exec(t, holder, `BEGIN`, `ALTER ENCODER never SET SCHEDULE '2 seconds'`)
		before := atoi(t, mustText(t, owner, ran))
		until(t, owner, strings.Replace(ran, "count(*)", fmt.Sprintf("count(*) > %d", before+2), 1), "t\n")
		e.exec(t, holder, `COMMIT`)
	})
}

// TestPublishWaits: a transaction of somebody's that changes the catalog and stays open costs no training.
func TestPublishWaits(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner, holder := e.connect(t, olga), e.connect(t, olga)
		registering := make(chan struct{}, 100)
		stop, err := startWorker(t.Context(), e, func(step string) {
			if step == "register" {
				registering <- struct{}{}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		e.exec(t, owner, `CREATE ENCODER other ON customers (age, income) WITH (latent_dims = 2, epochs = 1) WAIT`)
		<-registering
		e.exec(t, holder, `BEGIN`, `ALTER ENCODER other SET DEFAULT_VERSION = 1`)
		job := startTraining(t, owner, `TRAIN ENCODER enc`)
		<-registering
		time.Sleep(2 * time.Second)
		e.exec(t, holder, `COMMIT`)
		until(t, owner, stateOf(job), "completed|2\n")

		e.exec(t, holder, `BEGIN`, `ALTER ENCODER other SET DEFAULT_VERSION = 1`)
		job = startTraining(t, owner, `TRAIN ENCODER enc`)
		<-registering
		time.Sleep(time.Second)
		e.exec(t, owner, `CANCEL TRAINING JOB '`+job+`'`)
		until(t, owner, stateOf(job), "cancelled|∅\n")
		e.exec(t, holder, `COMMIT`)
		consistent(t, e, "enc")

		e.exec(t, owner, `CREATE VIEW broken AS SELECT 1 / (age - age) AS age FROM customers, pg_sleep(1)`)
		job = startTraining(t, owner, `CREATE ENCODER broken ON broken (age) WITH (latent_dims = 1, epochs = 1)`)
		e.exec(t, holder, `BEGIN`, `ALTER ENCODER other SET DEFAULT_VERSION = 1`)
		until(t, owner, `SELECT state, code FROM scrim.training_jobs WHERE id = `+job, "failed|22012\n")
		e.exec(t, holder, `COMMIT`)
		consistent(t, e, "broken")
	})
}

// TestWalkThroughFeatureViews: a view with its owner's rights over a feature view is a way to raw values, in the columns beside the codes too.
func TestWalkThroughFeatureViews(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner, admin := e.connect(t, olga), e.admin(t)
		e.trains(t)
		e.exec(t, owner, `CREATE ENCODER plain ON customers (age, vip) PASSTHROUGH (region, score) WITH (latent_dims = 2, epochs = 1) WAIT`, `CREATE FEATURE VIEW seen FOR ENCODER plain`,
			`CREATE VIEW shown AS SELECT score FROM scrim_runtime.seen`, `CREATE VIEW regions AS SELECT region FROM scrim_runtime.seen`, `GRANT SELECT ON shown, regions TO analyst`)
		_, err := text(t, owner, testPolicy)
		if code(err) != "55000" || !strings.Contains(explain(err), "shown") || strings.Contains(explain(err), "regions") {
			t.Errorf("with a view over the feature view: %v", explain(err))
		}
		e.exec(t, owner, `REVOKE SELECT ON shown FROM analyst`, testPolicy, `GRANT SELECT ON shown TO analyst`)
		if got := mustText(t, admin, `SELECT string_agg(DISTINCT object, ' ') FROM scrim.masking_policy_openings('p', 'customers')`); got != "public.shown\n" {
			t.Errorf("openings later: %s", got)
		}

		// The same through a view that has a policy of its own, for other columns.
		e.exec(t, owner, `DROP VIEW shown, regions`, `DROP FEATURE VIEW seen`, `CREATE VIEW middle AS SELECT id, region, age, income, score, vip FROM customers`,
			`CREATE ENCODER middling ON middle (age, income, vip) WITH (latent_dims = 2, epochs = 1) WAIT`,
			`CREATE MASKING POLICY m ON middle (age, income) EXCEPT risk USING ENCODER middling`,
			`CREATE VIEW top AS SELECT score FROM middle`, `CREATE VIEW side AS SELECT region FROM middle`, `GRANT SELECT ON top, side TO analyst`)
		if got := mustText(t, admin, `SELECT string_agg(DISTINCT object, ' ') FROM scrim.masking_policy_openings('p', 'customers')`); got != "public.top\n" {
			t.Errorf("openings over a masked view: %s", got)
		}
	})
}

// TestTrainingOnMaskedViews: what everybody may SELECT from in scrim_runtime gives a trainer nothing.
func TestTrainingOnMaskedViews(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner, admin := e.connect(t, olga), e.admin(t)
		e.trains(t)
		e.exec(t, owner, `CREATE ENCODER plain ON customers (age, vip) PASSTHROUGH (region, score) WITH (latent_dims = 2, epochs = 1) WAIT`, `CREATE FEATURE VIEW seen FOR ENCODER plain`, testPolicy)
		name := extraRole(t, e, "scrim_admin")
		other := e.connect(t, name)
		views := strings.Fields(mustText(t, admin, `SELECT masked_view::regclass FROM scrim_state.protections`))
		if len(views) != 2 {
			t.Fatal(views)
		}
		for i, view := range append(views, "scrim_runtime.seen") {
			statement := fmt.Sprintf(`CREATE ENCODER attempt_%d ON %s (score) WITH (latent_dims = 1, epochs = 1) WAIT`, i, view)
			if _, err := text(t, other, statement); err == nil || !strings.Contains("42501 0A000 42703", code(err)) {
				t.Errorf("%s: %v", statement, explain(err))
			} else {
				t.Logf("%s: %v", statement, explain(err))
			}
		}
	})
}

// TestTrainingHostileNames: names are names, all the way to the rows.
func TestTrainingHostileNames(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		admin := e.admin(t)
		name := extraRole(t, e, "scrim_admin")
		odd := `o"%s'\ ` + e.database
		t.Cleanup(func() {
			if err := e.superuser(context.Background(), e.database, `DROP OWNED BY `+pgx.Identifier{odd}.Sanitize()+` CASCADE`, `DROP ROLE `+pgx.Identifier{odd}.Sanitize()); err != nil {
				t.Error(err)
			}
		})
		e.exec(t, admin, `CREATE ROLE `+pgx.Identifier{odd}.Sanitize(), `GRANT `+pgx.Identifier{odd}.Sanitize()+` TO `+name, `CREATE SCHEMA "s %1$s; '"`, `GRANT ALL ON SCHEMA "s %1$s; '" TO PUBLIC`)
		owner := e.connect(t, name)
		e.trains(t)
		e.exec(t, owner, `SET ROLE `+pgx.Identifier{odd}.Sanitize(), `CREATE TABLE "s %1$s; '"."t""%s);--\" ("a%L"")" int, "b'%1$I" numeric, "c\\" text)`,
			`INSERT INTO "s %1$s; '"."t""%s);--\" SELECT i, i % 7, i % 3 FROM generate_series(1, 300) i`, `ALTER TABLE "s %1$s; '"."t""%s);--\" ENABLE ROW LEVEL SECURITY`, `RESET ROLE`)
		e.exec(t, owner, `CREATE ENCODER odd ON "s %1$s; '"."t""%s);--\" ("a%L"")", "b'%1$I") PASSTHROUGH ("c\\") WITH (latent_dims = 1, epochs = 1, target = "c\\") WAIT`)
		if got := mustText(t, owner, `SELECT feature_columns[1], trained_on FROM scrim.encoders WHERE name = 'odd'`); got != "a%L\")|300\n" {
			t.Error(got)
		}
		consistent(t, e, "odd")
	})
}

// TestTrainingRunsNoStrangersCode: rows are not read where code of somebody runs who may not read them: whoever owns a table or a function
// of another's view, or a function in an index.
func TestTrainingRunsNoStrangersCode(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner, admin := e.connect(t, olga), e.admin(t)
		name := extraRole(t, e, "scrim_user")
		e.exec(t, admin, `GRANT CREATE ON SCHEMA public TO `+name)
		stranger := e.directly(t, name)
		e.exec(t, stranger, `CREATE TABLE theirs (id int)`, `INSERT INTO theirs SELECT generate_series(1, 2000)`, `GRANT SELECT ON theirs TO olga`,
			`CREATE FUNCTION peek() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ DECLARE s float8; BEGIN
				EXECUTE 'SELECT max(age) FROM public.joined' INTO s; PERFORM pg_notify('peek', session_user || ' reads ' || s); RETURN true;
			EXCEPTION WHEN OTHERS THEN RETURN true; END $$`,
			`CREATE FUNCTION helper(x int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN x; END $$`,
			`CREATE INDEX trap ON theirs (id) WHERE peek()`)
		e.exec(t, owner, `CREATE VIEW joined AS SELECT c.age FROM customers c JOIN theirs ON theirs.id = c.id`, `CREATE VIEW deeper AS SELECT age FROM joined`,
			`CREATE VIEW calls AS SELECT helper(age) AS age FROM customers`, `CREATE TABLE indexed AS SELECT age FROM customers`, `CREATE INDEX ON indexed (helper(age))`)
		e.trains(t)
		for source, what := range map[string]string{"joined": "public.peek()", "deeper": "public.peek()", "calls": "helper(integer)", "indexed": "helper(integer)"} {
			_, err := text(t, owner, fmt.Sprintf(`CREATE ENCODER %[1]s ON %[1]s (age) WITH (latent_dims = 1, epochs = 1) WAIT`, source))
			if code(err) != "42501" || !strings.Contains(explain(err), what+` belongs to "`+name) {
				t.Errorf("%s: %v", source, explain(err))
			}
		}
		e.exec(t, owner, `GRANT SELECT ON calls TO `+name, `CREATE ENCODER calls ON calls (age) WITH (latent_dims = 1, epochs = 1) WAIT`)
		e.exec(t, owner, `DROP VIEW joined, deeper, calls CASCADE`, `DROP TABLE indexed`)
	})
}
