package integration_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/scrimdb/scrim/udf"
)

// TestDevice: where CUDA is missing, device = cuda is refused before a row is read, with what is missing, and leaves
// nothing behind. The CPU is the default.
func TestDevice(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.trains(t)
		owner := e.connect(t, olga)
		e.exec(t, owner, measured, `CREATE VIEW trap AS SELECT a, b / 0 AS b FROM measured`)
		const create = `CREATE ENCODER %name ON %table (a, b) WITH (latent_dims = 2, epochs = 2, batch_size = 64, device = %device) WAIT`
		statement := func(name, table, device string) string {
			return strings.NewReplacer("%name", name, "%table", table, "%device", device).Replace(create)
		}
		name := "on_a_gpu_" + e.database + "_" + e.name
		want := map[string]string{"measured": "", "trap": "22012"}
		missing := e.rt.Device(udf.CUDA)
		var device *udf.DeviceError
		if errors.As(missing, &device) {
			want["measured"], want["trap"] = "0A000", "0A000"
		} else if missing != nil {
			t.Fatal(missing)
		}
		for table, sqlstate := range want {
			_, err := text(t, owner, statement(name, table, "cuda"))
			if code(err) != sqlstate {
				t.Errorf("%s: got %v, want %q", table, explain(err), sqlstate)
			}
			var refusal *pgconn.PgError
			if sqlstate == "0A000" && (!errors.As(err, &refusal) || refusal.Message != device.Message || refusal.Hint != device.Hint) {
				t.Errorf("%s: got %v, want %v", table, explain(err), device)
			}
		}
		if device != nil {
			if _, err := os.Stat(filepath.Join(e.models, name)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the folder of a refused encoder: %v", err)
			}
			// What the machine lacks is for those to know who may train.
			if _, err := text(t, e.connect(t, guest), statement(name, "measured", "cuda")); code(err) != "42501" {
				t.Errorf("a role that may not train: %v", explain(err))
			}
		}

		e.exec(t, owner, statement("on_cpu", "measured", "cpu"), strings.Replace(statement("by_default", "measured", ""), ", device = ", "", 1))
		same := `SELECT count(DISTINCT v.sha256) FROM scrim_state.encoders e JOIN scrim_state.encoder_versions v ON v.encoder_id = e.id WHERE name IN ('on_cpu', 'by_default')`
		if got := mustText(t, e.admin(t), same); got != "1\n" {
			t.Errorf("device = cpu and the default made %s encoders", got)
		}
	})
}
