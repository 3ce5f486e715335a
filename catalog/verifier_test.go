package catalog

import (
	"encoding/base64"
	"strings"
	"testing"
)

// TestParseVerifier: PostgreSQL's own format is read, and anything else means that there is no verifier.
func TestParseVerifier(t *testing.T) {
	key := func(c string) string { return base64.StdEncoding.EncodeToString([]byte(strings.Repeat(c, 32))) }
	good := "SCRAM-SHA-256$4096:c2FsdA==$" + key("s") + ":" + key("v")
	v := parseVerifier(good)
	if v == nil || v.Iterations != 4096 || v.Salt != "c2FsdA==" || v.StoredKey[31] != 's' || v.ServerKey[0] != 'v' {
		t.Fatalf("%+v", v)
	}
	if v.Clear(); v.StoredKey != [32]byte{} || v.ServerKey != [32]byte{} {
		t.Error("the keys are still there")
	}
	for _, bad := range []string{
		"", "md5abcdef0123456789abcdef012345678", strings.Replace(good, "256", "512", 1), strings.Replace(good, "4096", "x", 1),
		strings.Replace(good, "c2FsdA==", "*", 1), good + ":" + key("w"), good[:len(good)-4], strings.Replace(good, key("s"), key("s")+key("s"), 1),
	} {
		if parseVerifier(bad) != nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

func FuzzParseVerifier(f *testing.F) {
	key := base64.StdEncoding.EncodeToString(make([]byte, 32))
	f.Add("SCRAM-SHA-256$4096:c2FsdA==$" + key + ":" + key)
	f.Add("md5abcdef0123456789abcdef012345678")
	f.Fuzz(func(t *testing.T, secret string) {
		v := parseVerifier(secret)
		if v == nil {
			return
		}
		if !strings.HasPrefix(secret, "SCRAM-SHA-256$") || !strings.Contains(secret, v.Salt) {
			t.Errorf("%q gives %q", secret, v.Salt)
		}
	})
}
