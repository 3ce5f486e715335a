package integration_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/scrimdb/scrim/training"
)

// TestReadOnlyModels: where the proxy may not write, a sweep and a publication say so, and masks go on.
func TestReadOnlyModels(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		v := twoVersions(t, e)
		pool, reader := e.pool(t), v.connect(t, analyst)
		const query = `SELECT id, income FROM customers WHERE id < 30 ORDER BY id`
		shown := mustText(t, reader, query)
		if _, err := training.Sweep(t.Context(), pool, v.store, busyWith("")); err != nil {
			t.Fatal(err)
		}
		v.put(t, "enc/.publishing-1")
		v.put(t, "enc/.publishing-2")
		folder := filepath.Join(v.models, "enc")
		for path, mode := range map[string]os.FileMode{filepath.Dir(v.models): 0o755, v.models: 0o755, folder: 0o555} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
		}
		// The superuser may write all the same: this thread's view of files is that of a nobody.
		runtime.LockOSThread()
		if _, err := unix.SetfsuidRetUid(65534); err != nil {
			t.Fatal(err)
		}
		removed, sweep := training.Sweep(t.Context(), pool, v.store, busyWith(""))
		_, publish := v.store.Publish("enc", 3, []byte("model"))
		_, _ = unix.SetfsuidRetUid(os.Getuid())
		runtime.UnlockOSThread()
		if err := os.Chmod(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, err := range []error{sweep, publish} {
			if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), folder) {
				t.Error(err)
			}
		}
		if removed != 0 || strings.Count(sweep.Error(), ".publishing-") != 2 { // all of them are named
			t.Error(removed, sweep)
		}
		if got := mustText(t, reader, query); got != shown {
			t.Error(difference(shown, got))
		}
		e.exec(t, v.connect(t, v.keeper), setVersion(2))
		if removed, err := training.Sweep(t.Context(), pool, v.store, busyWith("")); removed != 2 || err != nil {
			t.Error(removed, err)
		}
	})
}
