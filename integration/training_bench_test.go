package integration_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/scrimdb/scrim/udf/train"
)

// BenchmarkTraining is TRAIN ENCODER ... WAIT of 100,000 rows of 16 features in 20 epochs, with all that belongs to it: reading the rows,
// the report, the file. run is train.Run alone on the same rows, in the same round; BenchmarkRun in udf/train has what that is over the
// bare steps.
func BenchmarkTraining(b *testing.B) {
	const rows, features = 100_000, 16
	w, ctx := worlds[0], context.Background()
	name := fmt.Sprintf("bench_%d", w.made.Add(1))
	var columns, names []string
	for i := range features {
		columns = append(columns, fmt.Sprintf("sin(i * %d.7)::float8 + sin(i * 0.3) AS f%d", i+1, i))
		names = append(names, fmt.Sprintf("f%d", i))
	}
	err := w.superuser(ctx, "postgres", "CREATE DATABASE "+name+" TEMPLATE template")
	if err == nil {
		err = w.superuser(ctx, name, `SET SESSION AUTHORIZATION olga`, fmt.Sprintf(`CREATE TABLE wide AS SELECT %s FROM generate_series(1, %d) i`, strings.Join(columns, ", "), rows))
	}
	if err != nil {
		b.Fatal(err)
	}
	e, err := w.open(ctx, name, b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	stop, err := startWorker(ctx, e, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		stop()
		e.close()
		_ = w.superuser(ctx, "postgres", "DROP DATABASE "+name+" WITH (FORCE)")
	})
	conn := benchConn(b, e.dsn(olga))
	do := func(statement string) {
		if _, err := conn.Exec(ctx, statement).ReadAll(); err != nil {
			b.Fatal(err)
		}
	}
	do(fmt.Sprintf(`CREATE ENCODER wide ON wide (%s) WITH (latent_dims = 8, epochs = 20, batch_size = 512) WAIT`, strings.Join(names, ", ")))

	data, row := train.NewData(features), make([]float64, features)
	all, err := conn.Exec(ctx, `SELECT `+strings.Join(names, ", ")+` FROM wide`).ReadAll()
	if err != nil {
		b.Fatal(err)
	}
	for _, values := range all[0].Rows {
		for i, v := range values {
			if _, err := fmt.Sscan(string(v), &row[i]); err != nil {
				b.Fatal(err)
			}
		}
		if err := data.Append(row); err != nil {
			b.Fatal(err)
		}
	}
	cfg := train.Config{Features: names, LatentDims: 8, Epochs: 20, BatchSize: 512}
	var job, run timing
	for b.Loop() {
		started := time.Now()
		do(`TRAIN ENCODER wide WAIT`)
		job.add(time.Since(started))
		started = time.Now()
		if _, err := train.Run(ctx, e.rt, cfg, data, nil); err != nil {
			b.Fatal(err)
		}
		run.add(time.Since(started))
	}
	b.ReportMetric(median(job), "s/job")
	b.ReportMetric(median(run), "s/run")
	b.ReportMetric(job.over(run), "job/run")
}
