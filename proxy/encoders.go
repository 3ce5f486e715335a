package proxy

import (
	"context"
	"fmt"
	"strings"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/rewrite"
	"github.com/scrimdb/scrim/udf"
)

// A version of an encoder is switched in this order: each proxy hears of the new snapshot, has the encoders of it loaded and warmed
// (Encoders, udf.Library.Prepare), makes it current, and forgets the others (udf.Library.Retain). A statement takes its encoders
// from one snapshot, the one it was planned under, and holds them to its end; a cursor or portal to the end of that.

// Encoders are those that a snapshot's policies use, each once.
func Encoders(s *catalog.Snapshot) []udf.EncoderSpec {
	var list []udf.EncoderSpec
	seen := map[udf.EncoderSpec]bool{}
	for _, protection := range s.Protections {
		for _, p := range protection.Policies {
			if spec := specOf(p.Encoder); p.Encodes() && !seen[spec] {
				seen[spec] = true
				list = append(list, spec)
			}
		}
	}
	return list
}

func specOf(e catalog.Encoder) udf.EncoderSpec {
	return udf.EncoderSpec{Name: e.Name, Version: e.Version, SHA256: e.SHA256, Inputs: e.Inputs, Dims: e.Dims, Model: e.Model}
}

// encoder gets what computes the codes of a policy.
func (f *frontend) encoder(ctx context.Context, p *catalog.Policy) (*udf.Encoder, error) {
	spec := specOf(p.Encoder)
	if f.s.onLoop && !f.s.srv.library.Loaded(spec) {
		return nil, errWaits
	}
	enc, err := f.s.srv.library.Encoder(spec)
	if err != nil {
		return nil, f.cannotLoad(ctx, spec, err, "so its masks cannot be computed")
	}
	return enc, nil
}

func (f *frontend) cannotLoad(ctx context.Context, spec udf.EncoderSpec, err error, consequence string) error {
	f.s.log.ErrorContext(ctx, "a model cannot be loaded", "model", spec.String(), "error", err)
	kind := "encoder"
	if spec.Model {
		kind = "model"
	}
	return &Error{
		Code: codeSystemError, Message: fmt.Sprintf("%s cannot be loaded, %s", spec, consequence),
		Hint: "The proxy's log says why. Its --models folder must be the one that the " + kind + " was published in." +
			" ALTER " + strings.ToUpper(kind) + " ... SET DEFAULT_VERSION goes back to a version that works.",
	}
}

// setDefaultVersion makes a version the default one if it can be loaded: one whose file is missing or damaged must not take the
// place of one that works. What fails here aborts the client's transaction, and the change with it.
func (f *frontend) setDefaultVersion(ctx context.Context, c rewrite.SetDefaultVersion) error {
	spec := udf.EncoderSpec{Name: c.Name, Version: c.Version, Model: c.Model}
	function := "scrim.set_default_version"
	if c.Model {
		function = "scrim.set_default_model_version"
	}
	err := f.s.ask(ctx, false, `SELECT v.sha256, v.inputs, v.dims FROM `+function+`($1, $2) v`, []string{c.Name, fmt.Sprint(c.Version)},
		func(cells []cell) error {
			spec.SHA256, spec.Inputs, spec.Dims = string(cells[0]), int(cellUint32(cells[1])), int(cellUint32(cells[2]))
			return nil
		})
	if err != nil {
		return err
	}
	if err := f.s.srv.library.Check(spec); err != nil {
		return f.cannotLoad(ctx, spec, err, "so the default version stays")
	}
	return nil
}
