package integration_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// until waits until a query gives what is wanted.
func until(t *testing.T, conn *pgx.Conn, query, want string) {
	t.Helper()
	got := ""
	for range 300 {
		if got = mustText(t, conn, query); got == want {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("%s\nis %q after half a minute, not %q", query, got, want)
}

// startTraining runs a statement that starts a job, and returns its number.
func startTraining(t *testing.T, conn *pgx.Conn, statement string) string {
	t.Helper()
	return strings.TrimSpace(mustText(t, conn, statement))
}

func stateOf(job string) string {
	return `SELECT state, version FROM scrim.training_jobs WHERE id = ` + job
}

// consistent checks what must hold whenever no job is under way: the slot is free, no trainer can log in or read anything, and the
// registry and the files of an encoder agree.
func consistent(t *testing.T, e *env, encoder string) {
	t.Helper()
	admin := e.admin(t)
	until(t, admin, `SELECT count(*) FROM scrim_state.training_slot WHERE job IS NULL AND pid IS NULL`, "1\n")
	trainers := `SELECT count(*) FILTER (WHERE r.rolcanlogin OR r.rolbypassrls), count(d), count(*) FILTER (WHERE a.rolpassword IS NOT NULL OR EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid))
		FROM scrim_state.trainers t JOIN pg_roles r ON r.oid = t.role AND r.rolname = scrim.trainer_name(t.table_owner) JOIN pg_authid a ON a.oid = r.oid
		LEFT JOIN pg_shdepend d ON d.refclassid = 'pg_authid'::regclass AND d.refobjid = r.oid`
	if got := mustText(t, admin, trainers); got != "0|0|0\n" {
		t.Errorf("trainers that can log in or see all rows, or have privileges, or passwords or memberships: %s", got)
	}
	rows, err := admin.Query(t.Context(), `SELECT v.sha256 FROM scrim_state.encoder_versions v JOIN scrim_state.encoders e ON e.id = v.encoder_id WHERE e.name = $1`, encoder)
	if err != nil {
		t.Fatal(err)
	}
	hashes, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	var files []string
	for range 100 { // what has no row goes at the next sweep
		if files, err = filepath.Glob(filepath.Join(e.models, encoder, "*")); err != nil {
			t.Fatal(err)
		}
		if hidden, _ := filepath.Glob(filepath.Join(e.models, encoder, ".*")); len(files)+len(hidden) == len(hashes) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	var there []string
	for _, f := range files {
		content, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(content)
		there = append(there, hex.EncodeToString(sum[:]))
	}
	slices.Sort(hashes)
	slices.Sort(there)
	if !slices.Equal(hashes, there) {
		t.Errorf("files of %s:\n%s\nregistered:\n%s", encoder, there, hashes)
	}
}

// TestTrainingJobs: a training is a job, which is asked for in a transaction, and makes a version.
func TestTrainingJobs(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner, admin := e.connect(t, olga), e.admin(t)
		const create = `CREATE ENCODER jobs ON customers (age, income) WITH (latent_dims = 2, epochs = 3, batch_size = 128)`

		// Without a worker the job waits, and with it the encoder.
		e.exec(t, owner, `BEGIN`, create, `ROLLBACK`)
		if got := mustText(t, owner, `SELECT count(*) FROM scrim.training_jobs WHERE encoder = 'jobs'`); got != "0\n" {
			t.Errorf("a job that was rolled back: %s", got)
		}
		e.exec(t, owner, `BEGIN`)
		job := startTraining(t, owner, create)
		e.exec(t, owner, `COMMIT`)
		for statement, want := range map[string]string{
			create: "42710", `TRAIN ENCODER jobs`: "55006", `TRAIN ENCODER none`: "42704",
			`CREATE MASKING POLICY p ON customers (income) USING ENCODER jobs (age, income)`: "55000",
			`CANCEL TRAINING JOB '999999'`: "42704", `CANCEL TRAINING JOB jobs`: "42601", `BEGIN; TRAIN ENCODER enc`: "42601",
		} {
			if _, err := text(t, owner, statement); code(err) != want {
				t.Errorf("%s: %v, want %s", statement, explain(err), want)
			}
		}
		for _, statement := range []string{`TRAIN ENCODER jobs`, `CANCEL TRAINING JOB '` + job + `'`, `SELECT scrim.train_encoder('jobs')`, `SHOW TRAINING JOBS`} {
			if _, err := text(t, e.connect(t, analyst), statement); code(err) != "42501" {
				t.Errorf("the analyst: %s: %v", statement, explain(err))
			}
		}
		if got := mustText(t, owner, `SELECT id, encoder, state, epochs, requested_by FROM scrim.training_jobs WHERE id = `+job); got != job+"|jobs|queued|3|olga\n" {
			t.Error(got)
		}

		e.trains(t)
		until(t, owner, stateOf(job), "completed|1\n")
		if got := mustText(t, owner, `SELECT epoch, epochs, round(loss) IS NOT NULL, error, started_at < finished_at FROM scrim.training_jobs WHERE id = `+job); got != "3|3|t|∅|t\n" {
			t.Error(got)
		}
		for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeCacheStatement, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec} {
			var id int64
			if err := owner.QueryRow(t.Context(), `TRAIN ENCODER jobs`, mode).Scan(&id); err != nil {
				t.Fatalf("%s: %s", mode, explain(err))
			}
			until(t, owner, `SELECT state FROM scrim.training_jobs WHERE id = `+fmt.Sprint(id), "completed\n")
			waited, err := owner.Query(t.Context(), `TRAIN ENCODER jobs WAIT`, mode)
			if err != nil {
				t.Fatalf("%s: %s", mode, explain(err))
			}
			waited.Close()
			if err := waited.Err(); err != nil || waited.CommandTag().String() != "TRAIN ENCODER" {
				t.Errorf("WAIT, %s: %q, %s", mode, waited.CommandTag(), explain(err))
			}
		}
		if got := mustText(t, owner, `SELECT string_agg(version || CASE WHEN active THEN '*' ELSE '' END, ' ' ORDER BY version), count(DISTINCT sha256) FROM scrim.encoder_versions WHERE encoder = 'jobs'`); got != "1 2 3 4 5 6 7 8 9*|1\n" {
			t.Errorf("nine trainings on the same rows made %s", got)
		}
		pipeline := &pgx.Batch{}
		pipeline.Queue(`SELECT 1`)
		pipeline.Queue(`TRAIN ENCODER jobs WAIT`)
		if err := owner.SendBatch(t.Context(), pipeline).Close(); code(err) != "25001" {
			t.Errorf("WAIT in the middle of a pipeline: %v", explain(err))
		}
		for _, begin := range []string{`BEGIN`, `BEGIN ISOLATION LEVEL SERIALIZABLE`} {
			e.exec(t, owner, begin)
			if _, err := text(t, owner, `TRAIN ENCODER jobs WAIT`); code(err) != "25001" {
				t.Errorf("WAIT in a block: %v", explain(err))
			}
			e.exec(t, owner, `ROLLBACK`)
		}

		// OR REPLACE keeps an encoder that policies can go on with, and makes another of it where they cannot.
		e.exec(t, owner, `CREATE MASKING POLICY p ON customers (income) USING ENCODER jobs (age, income)`)
		before := mustText(t, e.connect(t, analyst), `SELECT income FROM customers WHERE id = 7`)
		e.exec(t, owner, strings.Replace(create, "epochs = 3", "epochs = 2", 1)[:0]+`CREATE OR REPLACE ENCODER jobs ON customers (age, income) WITH (latent_dims = 2, epochs = 2, batch_size = 64, seed = 9) WAIT`)
		after := mustText(t, e.connect(t, analyst), `SELECT income FROM customers WHERE id = 7`)
		if before == after {
			t.Error("the replaced encoder gives the same code")
		}
		other := `CREATE OR REPLACE ENCODER jobs ON customers (age, income, score) WITH (latent_dims = 2, epochs = 2) WAIT`
		if _, err := text(t, owner, other); code(err) != "2BP01" {
			t.Errorf("%s: %v", other, explain(err))
		}
		e.exec(t, owner, `DROP MASKING POLICY p ON customers`, other)
		if got := mustText(t, owner, `SELECT version, feature_columns FROM scrim.encoders WHERE name = 'jobs'`); got != "1|{age,income,score}\n" {
			t.Error(got)
		}

		// What may not be read any more is not trained on, and the encoder stays as it was.
		e.exec(t, admin, `ALTER TABLE customers OWNER TO risk`, `REVOKE ALL ON customers FROM olga`)
		if _, err := text(t, owner, `TRAIN ENCODER jobs WAIT`); code(err) != "42501" {
			t.Errorf("without SELECT: %v", explain(err))
		}
		e.exec(t, admin, `GRANT SELECT ON customers TO olga`)
		e.exec(t, owner, `TRAIN ENCODER jobs WAIT`) // of another's table
		e.exec(t, admin, `ALTER TABLE customers ENABLE ROW LEVEL SECURITY`)
		if _, err := text(t, owner, `TRAIN ENCODER jobs WAIT`); code(err) != "42501" {
			t.Errorf("with row security: %v", explain(err))
		}
		// Whoever has the owner's rights sees all rows. (Its trainer becomes a member of it, for which a role of this test's own is better.)
		own := extraRole(t, e, "scrim_user")
		e.exec(t, admin, `ALTER TABLE customers OWNER TO `+own, `GRANT `+own+` TO olga`)
		e.exec(t, owner, `TRAIN ENCODER jobs WAIT`)
		if got := mustText(t, owner, `SELECT trained_on FROM scrim.encoders WHERE name = 'jobs'`); got != "2000\n" {
			t.Errorf("rows behind row security: %s", got)
		}
		consistent(t, e, "jobs")
		e.exec(t, admin, `DROP TABLE customers CASCADE`)
		if _, err := text(t, owner, `TRAIN ENCODER jobs WAIT`); code(err) != "42809" {
			t.Errorf("without its table: %v", explain(err))
		}
	})
}

// TestCancelTraining: whatever a job is at, it ends when it is cancelled, and leaves nothing of an encoder that it was to be the first of.
func TestCancelTraining(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner, other, admin := e.connect(t, olga), e.connect(t, olga), e.admin(t)
		const create = `CREATE ENCODER long ON customers (age, income) WITH (epochs = 10000, batch_size = 16)`
		gone := func(job string) {
			t.Helper()
			asked := time.Now()
			e.exec(t, other, `CANCEL TRAINING JOB '`+job+`'`)
			until(t, other, stateOf(job), "cancelled|∅\n")
			t.Logf("cancelled after %s", time.Since(asked).Round(time.Millisecond))
			if got := mustText(t, owner, `SELECT count(*) FROM scrim.encoders WHERE name = 'long'`); got != "0\n" {
				t.Errorf("encoders: %s", got)
			}
			if _, err := text(t, other, `CANCEL TRAINING JOB '`+job+`'`); code(err) != "55000" {
				t.Errorf("cancelled twice: %v", explain(err))
			}
		}
		gone(startTraining(t, owner, create)) // waiting

		e.trains(t)
		job := startTraining(t, owner, create)
		until(t, other, `SELECT state, step, epoch > 0 FROM scrim.training_jobs WHERE id = `+job, "running|training|t\n")
		gone(job)

		e.exec(t, owner, `CREATE VIEW slow AS SELECT c.* FROM customers c, pg_sleep(60)`)
		job = startTraining(t, owner, strings.Replace(create, "customers", "slow", 1))
		until(t, other, `SELECT state, step FROM scrim.training_jobs WHERE id = `+job, "running|reading\n")
		gone(job)
		until(t, admin, `SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'scrim_trainer%' AND datname = current_database()`, "0\n") // its query too

		e.exec(t, admin, `BEGIN`, `LOCK TABLE scrim_state.policies IN SHARE ROW EXCLUSIVE MODE`) // as a policy that is being made does
		job = startTraining(t, owner, create)
		time.Sleep(700 * time.Millisecond)
		gone(job)
		e.exec(t, admin, `COMMIT`)

		waited := make(chan error, 1)
		go func() {
			_, err := text(t, owner, create+` WAIT`)
			waited <- err
		}()
		until(t, other, `SELECT count(*) FROM scrim.training_jobs WHERE encoder = 'long' AND state = 'running'`, "1\n")
		e.exec(t, other, `DROP ENCODER long`) // cancels, too
		if err := <-waited; code(err) != "57014" {
			t.Errorf("who waited heard %v", explain(err))
		}
		consistent(t, e, "long")
		e.exec(t, owner, strings.Replace(create, "10000", "1", 1)+` WAIT`) // the slot is free
	})
}

// TestWaiting: a job ends when the client that waits for it cancels the statement, and goes on when it is gone.
func TestWaiting(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.trains(t)
		owner, client := e.connect(t, olga), e.connect(t, olga)
		const create = `CREATE ENCODER long ON customers (age, income) WITH (epochs = 10000, batch_size = 16) WAIT`
		const last = `SELECT state FROM scrim.training_jobs WHERE encoder = 'long' ORDER BY id DESC LIMIT 1`
		const epoch = `SELECT max(epoch) FROM scrim.training_jobs WHERE encoder = 'long' AND state = 'running'`
		underWay := strings.Replace(epoch, "max(epoch)", "count(*)", 1) + ` AND epoch > 0`

		waited := make(chan error, 1)
		go func() {
			_, err := client.PgConn().Exec(t.Context(), create).ReadAll()
			waited <- err
		}()
		until(t, owner, underWay, "1\n")
		if err := client.PgConn().CancelRequest(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-waited; code(err) != "57014" {
			t.Errorf("who cancelled heard %v", explain(err))
		}
		until(t, client, last, "cancelled\n")
		if got := mustText(t, client, `SELECT count(*) FROM scrim.encoders WHERE name = 'long'`); got != "0\n" {
			t.Errorf("encoders: %s", got)
		}

		psql := exec.Command("psql", "-c", create, e.dsn(olga)) // pgx would cancel when its connection is closed
		if err := psql.Start(); err != nil {
			t.Fatal(err)
		}
		until(t, owner, underWay, "1\n")
		_ = psql.Process.Kill()
		_ = psql.Wait()
		gone := strings.TrimSpace(mustText(t, owner, epoch))
		time.Sleep(1500 * time.Millisecond) // it would be told of progress every second
		until(t, owner, strings.Replace(epoch, "max(epoch)", "max(epoch) > "+gone, 1), "t\n")
		e.exec(t, owner, `DROP ENCODER long`)
		until(t, owner, last, "cancelled\n")
		consistent(t, e, "long")
	})
}

// TestOneTrainingAtATime: of several workers in several processes one trains, and all jobs are done.
func TestOneTrainingAtATime(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner := e.connect(t, olga)
		told := filepath.Join(t.TempDir(), "steps")
		if err := os.WriteFile(told, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			startOtherWorker(t, e, "tell="+told)
		}
		var all sync.WaitGroup
		for i := range 6 {
			conn := e.connect(t, olga)
			all.Go(func() {
				e.exec(t, conn, fmt.Sprintf(`CREATE ENCODER one_%d ON customers (age, income) WITH (latent_dims = 2, epochs = 20, batch_size = 64) WAIT`, i))
			})
		}
		all.Wait()
		if got := mustText(t, owner, `SELECT count(*), sum(attempt) FROM scrim.training_jobs WHERE encoder LIKE 'one%' AND state = 'completed'`); got != "6|6\n" {
			t.Errorf("jobs and attempts: %s", got)
		}
		steps, err := os.ReadFile(told)
		if err != nil {
			t.Fatal(err)
		}
		training, processes, jobs := "", map[string]bool{}, 0
		for line := range strings.Lines(string(steps)) {
			step, process, _ := strings.Cut(strings.TrimSpace(line), " ")
			switch {
			case step == "read" && training != "":
				t.Fatalf("process %s trains while %s does:\n%s", process, training, steps)
			case step == "read": // it has the slot
				training, processes[process] = process, true
			case step == "commit": // it gives it back
				training = ""
				jobs++
			}
		}
		t.Logf("%d processes did %d jobs", len(processes), jobs)
		if jobs != 6 {
			t.Errorf("%d jobs:\n%s", jobs, steps)
		}
		consistent(t, e, "one_0")
	})
}

// TestKilledWorker: a worker that is killed before any step of a job leaves it to the next one, and the encoder with its old version
// until there is a new one.
func TestKilledWorker(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner := e.connect(t, olga)
		e.exec(t, owner, testPolicy)
		const query = `SELECT income FROM customers ORDER BY id LIMIT 3`
		codes := mustText(t, e.connect(t, analyst), query)
		encoder := func() string {
			return mustText(t, owner, `SELECT count(*), max(version), count(*) FILTER (WHERE active) FROM scrim.encoder_versions WHERE encoder = 'enc'`)
		}
		versions := 1
		for _, step := range []string{
			"begin", "read", "reading", "train", "epoch", "report", "publish", "file-written", "file-synced", "file-renamed", "file-published",
			"register", "commit", "committed",
		} {
			job := startTraining(t, owner, `TRAIN ENCODER enc`)
			died := startOtherWorker(t, e, step)
			select {
			case <-died:
			case <-time.After(30 * time.Second):
				t.Fatalf("the worker was not at step %q", step)
			}
			want := fmt.Sprintf("%d|%d|1\n", versions, versions)
			if step == "committed" {
				want = fmt.Sprintf("%d|%d|1\n", versions+1, versions+1)
			}
			if got := encoder(); got != want {
				t.Errorf("killed before %s: versions, the last and active ones: %s", step, got)
			}
			if got := mustText(t, e.connect(t, analyst), query); got != codes {
				t.Errorf("killed before %s: codes are\n%s\nnot\n%s", step, got, codes)
			}
			stop, err := startWorker(t.Context(), e, nil)
			if err != nil {
				t.Fatal(err)
			}
			versions++
			until(t, owner, stateOf(job), fmt.Sprintf("completed|%d\n", versions))
			if got, want := encoder(), fmt.Sprintf("%d|%d|1\n", versions, versions); got != want {
				t.Errorf("killed before %s and taken over: versions, the last and active ones: %s", step, got)
			}
			consistent(t, e, "enc")
			stop()
		}

		// Three times is enough.
		job := startTraining(t, owner, `TRAIN ENCODER enc`)
		for range 3 {
			<-startOtherWorker(t, e, "train")
		}
		e.trains(t)
		until(t, owner, `SELECT state, attempt, code FROM scrim.training_jobs WHERE id = `+job, "failed|3|57P01\n")
		consistent(t, e, "enc")
		e.exec(t, owner, `TRAIN ENCODER enc WAIT`)
	})
}

// startOtherWorker starts a worker in a process of its own, which kills itself before a step, or with tell= tells its steps in a file. The
// channel is closed when it is dead.
func startOtherWorker(t *testing.T, e *env, step string) <-chan struct{} {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("SCRIM_TEST_WORKER=%s %s %s", e.catalogDSN, e.models, step))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	died := make(chan struct{})
	go func() {
		defer close(died)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Process.Kill()
		<-died
	})
	return died
}

// TestLostSlot: a worker whose connections are cut, as by a restart of the server, publishes nothing; the job is tried again, and done once.
func TestLostSlot(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner, admin := e.connect(t, olga), e.admin(t)
		for i, step := range []string{"reading", "publish", "commit"} {
			cut := make(chan struct{})
			var once sync.Once
			stop, err := startWorker(t.Context(), e, func(s string) {
				if s == step {
					once.Do(func() {
						mustText(t, admin, `SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE datname = current_database()
							AND application_name IN ('scrim worker', 'scrim training slot', 'scrim training')`)
						close(cut)
					})
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			job := startTraining(t, owner, `TRAIN ENCODER enc`)
			<-cut
			// More than two attempts if River's note of the first one comes, late, before the second has begun.
			until(t, owner, `SELECT state, attempt > 1, version FROM scrim.training_jobs WHERE id = `+job, fmt.Sprintf("completed|t|%d\n", i+2))
			consistent(t, e, "enc")
			stop()
		}
	})
}

// TestLateReport: what a worker that had lost a job says of it to the queue, while another one trains, changes nothing: the job is done once.
func TestLateReport(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner, admin := e.connect(t, olga), e.admin(t)
		stop, err := startWorker(t.Context(), e, func(step string) {
			if step == "publish" { // what River says for a worker whose attempt failed
				e.exec(t, admin, `UPDATE scrim_state.river_job SET state = 'available', scheduled_at = now() + interval '3 seconds' WHERE state = 'running'`)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		job := startTraining(t, owner, `TRAIN ENCODER enc`)
		until(t, owner, stateOf(job), "completed|2\n")
		if got := mustText(t, admin, `SELECT state FROM scrim_state.river_job WHERE id = `+job); got != "completed\n" {
			t.Errorf("the queue has the job as %s", got)
		}
		consistent(t, e, "enc")
	})
}

// TestCancelInTransaction: a job goes on until its cancelling commits, and does not end before that is known.
func TestCancelInTransaction(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner, other, admin := e.connect(t, olga), e.connect(t, olga), e.admin(t)
		training, goOn := make(chan struct{}), make(chan struct{})
		stop, err := startWorker(t.Context(), e, func(step string) {
			if step == "train" {
				training <- struct{}{}
				<-goOn
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		defer stop()

		job := startTraining(t, owner, `TRAIN ENCODER enc`)
		<-training
		e.exec(t, other, `BEGIN`, `CANCEL TRAINING JOB '`+job+`'`, `SELECT pg_sleep(1.5)`, `ROLLBACK`) // progress is told meanwhile
		goOn <- struct{}{}
		until(t, owner, `SELECT state, version, attempt FROM scrim.training_jobs WHERE id = `+job, "completed|2|1\n")

		job = startTraining(t, owner, `TRAIN ENCODER enc`)
		<-training
		e.exec(t, other, `BEGIN`, `CANCEL TRAINING JOB '`+job+`'`)
		goOn <- struct{}{}
		until(t, admin, `SELECT wait_event_type FROM pg_stat_activity WHERE application_name = 'scrim training slot' AND datname = current_database()`, "Lock\n")
		e.exec(t, other, `COMMIT`)
		until(t, owner, stateOf(job), "cancelled|∅\n")
		consistent(t, e, "enc")
	})
}

// TestEndOfAttempt: between the end of an attempt and River's note of it nobody takes the job for dead; and what River ends by itself is
// told as an error.
func TestEndOfAttempt(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner, admin := e.connect(t, olga), e.admin(t)
		const create = `CREATE ENCODER ends ON customers (age, income)`
		running := func(job string) {
			e.exec(t, admin, `UPDATE scrim_state.river_job SET state = 'running', attempt = 1, attempted_at = now() - interval '1 hour' WHERE id = `+job)
		}
		is := func(query, want string) {
			t.Helper()
			if got := mustText(t, admin, query); got != want {
				t.Errorf("%s\nis %q, not %q", query, got, want)
			}
		}
		job := startTraining(t, owner, create)
		running(job)
		e.exec(t, admin, `SELECT scrim.end_training(`+job+`, 1, '53100', 'disk full', NULL, false)`)
		is(`SELECT count(*) FROM scrim.rescue_training()`, "0\n")
		e.exec(t, admin, `UPDATE scrim_state.training_jobs SET ended_at = now() - interval '11 seconds' WHERE job = `+job) // River's note was lost
		is(`SELECT scrim.rescue_training()`, job+"\n")
		is(`SELECT state, code FROM scrim.training_jobs WHERE id = `+job, "queued|57P01\n")

		running(job)
		e.exec(t, admin, `SELECT scrim.end_training(`+job+`, 1, '22023', 'no', NULL, true)`)
		is(`SELECT count(*) FROM scrim.rescue_training()`, "0\n")
		is(`SELECT state, code, (SELECT count(*) FROM scrim.encoders WHERE name = 'ends') FROM scrim.training_jobs WHERE id = `+job, "failed|22023|0\n")

		job = startTraining(t, owner, create)
		e.exec(t, admin, `UPDATE scrim_state.river_job SET state = 'discarded', finalized_at = now() WHERE id = `+job)
		is(`SELECT count(*) FROM scrim.rescue_training()`, "0\n")
		is(`SELECT state, code, (SELECT count(*) FROM scrim.encoders WHERE name = 'ends') FROM scrim.training_jobs WHERE id = `+job, "failed|XX000|0\n")

		// One that was cancelled while it runs, and is asked for again: the end of the first leaves the encoder to the second.
		first := startTraining(t, owner, create)
		running(first)
		e.exec(t, owner, `CANCEL TRAINING JOB '`+first+`'`)
		second := startTraining(t, owner, `TRAIN ENCODER ends`)
		e.exec(t, admin, `SELECT scrim.end_training(`+first+`, 1, '57014', 'cancelled', NULL, true)`)
		e.trains(t)
		until(t, owner, stateOf(second), "completed|1\n")
	})
}

// TestTrainer: rows are read by a role that is good for nothing else, whatever the owner's code does in its session.
func TestTrainer(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner, admin := e.connect(t, olga), e.admin(t)
		e.exec(t, admin, `CREATE TABLE others (secret float8)`, `INSERT INTO others VALUES (4815162)`, `CREATE SCHEMA open`, `GRANT ALL ON SCHEMA open TO PUBLIC`)
		e.exec(t, owner, testPolicy, `CREATE TABLE more (secret float8)`,
			`CREATE FUNCTION try(what text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN EXECUTE what; RETURN 'done'; EXCEPTION WHEN OTHERS THEN RETURN SQLSTATE; END $$`,
			`CREATE FUNCTION spy(x float8) RETURNS float8 LANGUAGE plpgsql AS $$ DECLARE said text := ''; what text; BEGIN
				FOREACH what IN ARRAY ARRAY['RESET ROLE', 'RESET SESSION AUTHORIZATION', 'SET ROLE olga', 'SELECT * FROM public.others', 'SELECT * FROM public.more', 'SELECT * FROM public.customers',
					'SELECT age FROM public.customers', 'SELECT "Note" FROM public.customers', 'SELECT * FROM scrim_state.key_' || 'olga'::regrole::oid, 'SELECT * FROM scrim_state.training_slot', 'CREATE TEMP TABLE t ()', 'CREATE TABLE open.t ()',
					'SET transaction_read_only = off', 'ALTER ROLE CURRENT_USER PASSWORD ''x''', 'SELECT rolpassword FROM pg_authid', 'SELECT scrim.begin_training(1, 1, ''x'')'] LOOP
					said := said || what || ': ' || public.try(what) || chr(10);
				END LOOP;
				PERFORM pg_notify('spy', format(E'%s %s %s\n%s', session_user ~ '^scrim_trainer_\d+_\d+$', session_user = current_user,
					(SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls FROM pg_roles WHERE rolname = session_user), said));
				RETURN x;
			END $$`,
			`CREATE VIEW trap AS SELECT CASE WHEN id = 7 THEN spy(score) ELSE score END AS score FROM customers`)
		e.exec(t, admin, `LISTEN spy`)
		e.trains(t)
		e.exec(t, owner, `CREATE ENCODER trapped ON trap (score) WITH (latent_dims = 1, epochs = 1) WAIT`)
		told, err := admin.WaitForNotification(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		who, lines, _ := strings.Cut(told.Payload, "\n")
		if who != "t t f" {
			t.Errorf("the trainer is not what it must be: %s", who)
		}
		for line := range strings.Lines(lines) {
			what, got, _ := strings.Cut(strings.TrimSpace(line), ": ")
			allowed := []string{"42501", "25006", "25001", "42704"}
			if strings.Contains(what, "RESET") { // to what it is
				allowed = []string{"done"}
			}
			if !slices.Contains(allowed, got) { // the view's owner reads age, the trainer does not
				t.Errorf("in the trainer's session, %s: %s", what, got)
			}
		}
		if strings.Count(lines, "\n") != 16 {
			t.Errorf("the spy said only: %s", lines)
		}

		// What an error quotes is for those to see who may see rows, not for everybody who may see jobs.
		e.exec(t, owner, `CREATE VIEW notes AS SELECT ('note ' || score)::float8 AS score FROM customers`)
		_, err = text(t, owner, `CREATE ENCODER noted ON notes (score) WITH (latent_dims = 1, epochs = 1) WAIT`)
		if code(err) != "22P02" || strings.Contains(explain(err), "note ") {
			t.Errorf("an error that quotes a value: %s", explain(err))
		}
		if got := mustText(t, admin, `SELECT count(*) FROM scrim_state.river_job WHERE errors::text ~ 'note '`) + mustText(t, owner, `SELECT count(*) FROM scrim.training_jobs j WHERE j::text ~ 'note '`); got != "0\n0\n" {
			t.Errorf("jobs that quote it: %s", got)
		}
		consistent(t, e, "trapped")
	})
}

// TestPolicyWhileTraining: a policy can be made while a job reads the table: its trainer is no opening, and reads on.
func TestPolicyWhileTraining(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner, admin := e.connect(t, olga), e.admin(t)
		reading, made := make(chan struct{}), make(chan struct{})
		var once sync.Once
		stop, err := startWorker(t.Context(), e, func(step string) {
			if step == "read" {
				once.Do(func() { close(reading); <-made })
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		job := startTraining(t, owner, `TRAIN ENCODER enc`)
		<-reading
		e.exec(t, e.connect(t, olga), testPolicy)
		if ways := mustText(t, admin, `SELECT string_agg(why, '; ') FROM scrim.masking_policy_openings('p', 'customers')`); ways != "∅\n" {
			t.Errorf("openings: %s", ways)
		}
		close(made)
		until(t, owner, stateOf(job), "completed|2\n")
		consistent(t, e, "enc")
		e.exec(t, owner, `DROP MASKING POLICY p ON customers`)
		if got := mustText(t, admin, `SELECT has_table_privilege('analyst', 'customers', 'SELECT')`); got != "t\n" {
			t.Error("the analyst's grant did not come back")
		}
	})
}

// TestSchedules: a schedule trains by the clock and by growth; what was missed runs once.
func TestSchedules(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner, admin := e.connect(t, olga), e.admin(t)
		e.trains(t)
		jobs := func(reason string) string {
			return `SELECT count(*) FROM scrim.training_jobs WHERE encoder = 'enc' AND state = 'completed' AND reason = '` + reason + `'`
		}
		e.exec(t, owner, `ALTER ENCODER enc SET SCHEDULE '1 second'`)
		until(t, owner, strings.Replace(jobs("schedule"), "count(*)", "count(*) >= 2", 1), "t\n")
		e.exec(t, owner, `ALTER ENCODER enc UNSET SCHEDULE`)
		until(t, owner, `SELECT count(*) FROM scrim.training_jobs WHERE state IN ('queued', 'running')`, "0\n")
		done := strings.TrimSpace(mustText(t, owner, jobs("schedule")))

		for _, schedule := range []string{`5 4 * * *`, `1 hour`} {
			e.exec(t, owner, `ALTER ENCODER enc SET SCHEDULE '`+schedule+`'`)
			until(t, owner, `SELECT next_training > now() FROM scrim.encoders WHERE name = 'enc'`, "t\n")
			if schedule == `5 4 * * *` {
				at := `SELECT to_char(next_training AT TIME ZONE 'UTC', 'HH24:MI:SS'), next_training <= now() + interval '1 day' FROM scrim.encoders WHERE name = 'enc'`
				if got := mustText(t, owner, at); got != "04:05:00|t\n" {
					t.Errorf("%s is next at %s", schedule, got)
				}
			}
			e.exec(t, admin, `UPDATE scrim_state.training_schedules SET next_at = now() - interval '3 days'`) // nobody was there
			until(t, owner, `SELECT next_training > now() FROM scrim.encoders WHERE name = 'enc'`, "t\n")
			until(t, owner, `SELECT count(*) FROM scrim.training_jobs WHERE state IN ('queued', 'running')`, "0\n")
		}
		if got, want := strings.TrimSpace(mustText(t, owner, jobs("schedule"))), fmt.Sprint(atoi(t, done)+2); got != want {
			t.Errorf("%s trainings by schedule, not %s", got, want)
		}

		e.exec(t, owner, `ALTER ENCODER enc SET SCHEDULE '1 day' ROW GROWTH 500`)
		if got := mustText(t, owner, `SELECT schedule, row_growth FROM scrim.encoders WHERE name = 'enc'`); got != "1 day|500\n" {
			t.Error(got)
		}
		grow := func(n int) {
			e.exec(t, e.directly(t, olga), fmt.Sprintf(`INSERT INTO customers SELECT (SELECT max(id) FROM customers) + i, 'EU', 40, 50000, 500, true FROM generate_series(1, %d) i`, n), `ANALYZE customers`)
		}
		grow(400)
		time.Sleep(2500 * time.Millisecond)
		if got := mustText(t, owner, jobs("row growth")); got != "0\n" {
			t.Errorf("after 400 rows: %s", got)
		}
		grow(200)
		until(t, owner, jobs("row growth"), "1\n")
		if got := mustText(t, owner, `SELECT trained_on FROM scrim.encoders WHERE name = 'enc'`); got != "2600\n" {
			t.Errorf("trained on %s", got)
		}

		e.exec(t, owner, `CREATE VIEW seen AS SELECT age FROM customers`, `CREATE ENCODER seen ON seen (age) WITH (latent_dims = 1, epochs = 1) WAIT`)
		for statement, want := range map[string]string{
			`ALTER ENCODER none SET SCHEDULE '1 day'`: "42704", `ALTER ENCODER enc SET SCHEDULE ''`: "22023", `ALTER ENCODER enc SET SCHEDULE 'soon'`: "22023",
			`ALTER ENCODER enc SET SCHEDULE '0 seconds'`: "22023", `ALTER ENCODER enc SET SCHEDULE '-1 day'`: "22023", `ALTER ENCODER enc SET SCHEDULE '60 * * * *'`: "22023",
			`ALTER ENCODER enc SET SCHEDULE '* 24 * * *'`: "22023", `ALTER ENCODER enc SET SCHEDULE '* * 0 * *'`: "22023", `ALTER ENCODER enc SET SCHEDULE '* * * 13 *'`: "22023",
			`ALTER ENCODER enc SET SCHEDULE '* * * * 8'`: "22023", `ALTER ENCODER enc SET SCHEDULE '5-1 * * * *'`: "22023", `ALTER ENCODER enc SET SCHEDULE '*/0 * * * *'`: "22023",
			`ALTER ENCODER enc SET SCHEDULE '* * * *'`: "22023", `ALTER ENCODER enc SET SCHEDULE '* * * * fri-mon'`: "22023", `ALTER ENCODER enc SET SCHEDULE '* * * jan1 *'`: "22023",
			`ALTER ENCODER enc SET SCHEDULE '9-99 * * * *'`: "22023", `ALTER ENCODER enc SET SCHEDULE '1-2-3 * * * *'`: "22023", `ALTER ENCODER enc SET SCHEDULE '280000 years'`: "22023", `ALTER ENCODER enc SET SCHEDULE '1 day' ROW GROWTH 0`: "22023", `ALTER ENCODER enc SET SCHEDULE 1`: "42601",
			`ALTER ENCODER seen SET SCHEDULE '1 day' ROW GROWTH 5`: "0A000", `ALTER ENCODER enc`: "42601",
			`ALTER ENCODER enc SET SCHEDULE '*/5 0-6,12 1,15 jan-mar mon-fri'`: "", `ALTER ENCODER enc SET SCHEDULE '@daily'`: "", `ALTER ENCODER enc SET SCHEDULE '0 0 31 2 *'`: "",
			`ALTER ENCODER enc SET SCHEDULE '1 month 2 days'`: "", `SELECT scrim.schedule_training('enc', NULL, 100)`: "",
		} {
			if _, err := text(t, owner, statement); code(err) != want {
				t.Errorf("%s: %v, want %q", statement, explain(err), want)
			}
		}
		for _, statement := range []string{`ALTER ENCODER enc SET SCHEDULE '1 day'`, `SELECT scrim.schedule_training('enc', '1 day')`} {
			if _, err := text(t, e.connect(t, analyst), statement); code(err) != "42501" {
				t.Errorf("the analyst: %s: %v", statement, explain(err))
			}
		}
		// What the server takes for a cron expression the library must take too: it is worked out at once.
		for _, schedule := range []string{`*/5 0-6,12 1,15 jan-mar mon-fri`, ` @Daily `, `0 0 31 2 *`, `0 3 * Dec SUN`, `5/10 * 01 2-12/3 *`} {
			e.exec(t, owner, `ALTER ENCODER enc SET SCHEDULE '`+schedule+`'`)
			until(t, owner, `SELECT next_training > now() FROM scrim.encoders WHERE name = 'enc'`, "t\n")
		}

		// One that cannot be started does not keep the others.
		e.exec(t, admin, `UPDATE scrim_state.training_schedules SET schedule = 'nonsense', is_cron = true, next_at = NULL`)
		e.exec(t, owner, `ALTER ENCODER seen SET SCHEDULE '1 hour'`)
		until(t, owner, `SELECT next_training > now() FROM scrim.encoders WHERE name = 'seen'`, "t\n")
	})
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	var n int
	if _, err := fmt.Sscan(s, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestStoppedWorker: what a worker was at when it stopped is begun anew by the next one at
// once, as if it had not been begun.
func TestStoppedWorker(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner := e.connect(t, olga)
		training := make(chan struct{}, 8)
		stop, err := startWorker(t.Context(), e, func(step string) {
			if step == "train" {
				training <- struct{}{}
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		job := startTraining(t, owner, `CREATE ENCODER stopped ON customers (age, income, score) WITH (latent_dims = 2, epochs = 200, batch_size = 16)`)
		<-training
		stop()
		if got := mustText(t, owner, `SELECT state, attempt, error FROM scrim.training_jobs WHERE id = `+job); got != "queued|0|∅\n" {
			t.Errorf("a job whose worker stopped: %s", got)
		}
		e.trains(t)
		until(t, owner, `SELECT state, attempt FROM scrim.training_jobs WHERE id = `+job, "completed|1\n")
		consistent(t, e, "stopped")
	})
}
