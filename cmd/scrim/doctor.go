//go:build cgo

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/native"
	"github.com/scrimdb/scrim/udf"
)

// errFindings means that doctor has printed what is to be mended: exit status 1, for CI, and no more words.
var errFindings = errors.New("doctor has found something")

// errCannotRun means that doctor has found out nothing: exit status 2.
var errCannotRun = errors.New("doctor cannot run")

// maxSkew is how far clocks may be apart before log lines, certificates and schedules stop making sense together.
const maxSkew = 5 * time.Second

func runDoctor(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	fs := newFlagSet("doctor", stderr)
	dsn := fs.String("catalog", "", "connection string of the role that ran scrim init, or of a scrim_admin, who sees what its own tables have")
	models := fs.String("models", "", "folder of model files to check, and ONNX Runtime with it")
	asJSON := fs.Bool("json", false, "print an array of objects")
	strict := fs.Bool("strict", false, "exit with 1 for warnings too")
	if err := parse(fs, args, "catalog"); errors.Is(err, errUsage) {
		return err
	} else if err != nil {
		return cannotRun(err)
	}
	conn, err := pgx.Connect(ctx, *dsn)
	if err != nil {
		return cannotRun(fmt.Errorf("connect: %w", err))
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	checkup, err := catalog.Doctor(ctx, conn)
	if err != nil {
		return cannotRun(err)
	}
	found, err := modelFindings(ctx, *models, checkup.Encoders, stderr)
	if err != nil {
		return cannotRun(err)
	}
	findings := slices.Concat(clockFindings(checkup.Ahead), found, checkup.Findings) // the server's first, as the database has them
	if *asJSON {
		err = printJSON(stdout, findings)
	} else {
		err = printFindings(stdout, findings)
	}
	if err != nil {
		return cannotRun(err)
	}
	errs, warnings, _ := count(findings)
	if errs > 0 || *strict && warnings > 0 {
		return errFindings
	}
	return nil
}

func cannotRun(err error) error { return fmt.Errorf("%w: %w", errCannotRun, err) }

func clockFindings(ahead time.Duration) []catalog.Finding {
	if ahead.Abs() <= maxSkew {
		return nil
	}
	return []catalog.Finding{{
		Severity: catalog.SeverityWarning, Kind: "clock", Object: "this machine",
		Why:    fmt.Sprintf("its clock is %s off the server's: certificates and schedules go by one, log lines by the other", ahead.Round(time.Second).Abs()),
		Remedy: "synchronise both clocks",
	}}
}

// modelFindings looks whether ONNX Runtime loads, and each default version of an encoder and version of a model does, and gives the codes that it gave when it was published.
func modelFindings(ctx context.Context, folder string, encoders []catalog.Encoder, progress io.Writer) ([]catalog.Finding, error) {
	if folder == "" {
		return []catalog.Finding{{
			Severity: catalog.SeverityNote, Kind: "models", Why: "model files and ONNX Runtime were not looked at", Remedy: "scrim doctor --models DIR",
		}}, nil
	}
	if info, err := os.Stat(folder); err != nil { // the store would make it
		return nil, fmt.Errorf("models folder: %w", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("models folder: %s is not a folder", folder)
	}
	absolute, err := filepath.Abs(folder)
	if err != nil {
		return nil, err
	}
	store, err := udf.NewStore(absolute)
	if err != nil {
		return nil, err
	}
	file, err := native.ONNXRuntime(ctx, native.Config{Progress: progress})
	var runtime *udf.Runtime
	if err == nil {
		runtime, err = udf.NewRuntime(file)
	}
	if err != nil {
		return []catalog.Finding{{
			Severity: catalog.SeverityError, Kind: "library", Object: "ONNX Runtime", Why: "it does not load, so nobody here gets codes: " + err.Error(),
			Remedy: "name its library in SCRIM_ONNXRUNTIME_LIB, or let Scrim fetch it",
		}}, nil
	}
	defer func() { _ = runtime.Close() }()
	var found []catalog.Finding
	for _, e := range encoders {
		encoder, err := runtime.LoadEncoder(udf.EncoderSpec{
			Name: e.Name, Version: e.Version, Path: store.Path(e.Name, e.Version, e.SHA256), SHA256: e.SHA256, Inputs: e.Inputs, Dims: e.Dims, Model: e.Model,
		})
		if err == nil {
			err = encoder.Close()
		}
		if err == nil {
			continue
		}
		f := catalog.Finding{
			Severity: catalog.SeverityError, Kind: "model", Object: e.Name, Why: err.Error(), Path: store.Path(e.Name, e.Version, e.SHA256),
			Remedy: "bring the file back from a backup, or TRAIN ENCODER " + pgx.Identifier{e.Name}.Sanitize(),
		}
		if e.Model {
			f.Remedy = "bring the file back from a backup, or import it as another version and SET DEFAULT_VERSION"
		}
		if deviceErr := (*udf.DeviceError)(nil); errors.As(err, &deviceErr) { // another machine may have one
			f.Severity, f.Remedy = catalog.SeverityWarning, deviceErr.Hint
		}
		found = append(found, f)
	}
	return found, nil
}

func printJSON(w io.Writer, findings []catalog.Finding) error {
	if findings == nil {
		findings = []catalog.Finding{}
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(findings)
}

// printFindings groups by relation what the database has sorted by it.
func printFindings(w io.Writer, findings []catalog.Finding) error {
	var b strings.Builder
	named := false
	last := ""
	for _, f := range findings {
		if !named || f.Relation != last {
			if named {
				b.WriteByte('\n')
			}
			heading := f.Relation
			if heading == "" {
				heading = "The whole server"
			}
			b.WriteString(heading + "\n")
			named, last = true, f.Relation
		}
		fmt.Fprintf(&b, "  %-7s  %s: %s\n", f.Severity, strings.TrimSpace(f.Kind+" "+f.Object), f.Why)
		if f.Path != "" {
			fmt.Fprintf(&b, "           path:   %s\n", f.Path)
		}
		if f.Remedy != "" {
			fmt.Fprintf(&b, "           remedy: %s\n", f.Remedy)
		}
	}
	errs, warnings, notes := count(findings)
	if named {
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "Errors: %d, warnings: %d, notes: %d\n", errs, warnings, notes)
	_, err := io.WriteString(w, b.String())
	return err
}

func count(findings []catalog.Finding) (errs, warnings, notes int) {
	for _, f := range findings {
		switch f.Severity {
		case catalog.SeverityError:
			errs++
		case catalog.SeverityWarning:
			warnings++
		default:
			notes++
		}
	}
	return errs, warnings, notes
}
