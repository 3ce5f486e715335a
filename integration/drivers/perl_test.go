//go:build drivers

package drivers_test

import (
	"os/exec"
	"path/filepath"
	"testing"
)

func TestDBDPg(t *testing.T) {
	works(t, func(t *testing.T, to login) string {
		t.Helper()
		perl := tool(t, "perl", "perl")
		if err := exec.CommandContext(t.Context(), perl, "-MDBD::Pg", "-e", "1").Run(); err != nil {
			t.Fatal("DBD::Pg is missing: install libdbd-pg-perl")
		}
		return command(t, to, nil, perl, filepath.Join("testdata", "perl", "dbd_pg.pl"))
	}, "codes prepared", "types", "codes rollback", "rollback", "error", "codes cursor", "copy", "copied codes", "catalog", "notify", "codes async", "cancel")
}
