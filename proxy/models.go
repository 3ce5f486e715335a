package proxy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/rewrite"
	"github.com/scrimdb/scrim/udf"
)

// importModel reads a file from the folder of imports, checks it, publishes a copy, and registers that in the client's transaction. It asks for
// the client's rights before it looks at anything. A copy that comes to nothing, by a rollback or a crash, is swept away like an encoder's.
func (f *frontend) importModel(ctx context.Context, c rewrite.ImportModel) error {
	wanted := false
	err := f.s.ask(ctx, false, `SELECT scrim.prepare_model($1, $2, $3, $4)`, []string{c.Name, fmt.Sprint(c.Version), boolean(c.Adds), boolean(c.IfNotExists)},
		func(cells []cell) error {
			wanted = len(cells[0]) == 1 && cells[0][0] == 1
			return nil
		})
	if err != nil || !wanted {
		return err
	}
	model, err := f.checkedModel(ctx, c)
	if err != nil {
		return err
	}
	token, err := f.publishModel(ctx, c, model)
	if err != nil {
		f.s.log.ErrorContext(ctx, "a model could not be published", "model", c.Name, "version", c.Version, "error", err)
		return &Error{
			Code: codeSystemError, Message: fmt.Sprintf("model %q version %d could not be published", c.Name, c.Version),
			Hint: "The proxy's log says why. Its --models folder must be writable, and the catalog reachable.",
		}
	}
	err = f.s.ask(ctx, false, `SELECT scrim.register_model($1, $2, $3, $4)`, []string{c.Name, fmt.Sprint(c.Version), boolean(c.Adds), token}, nil)
	if err != nil {
		return err
	}
	return f.notice("model %q version %d: %s", c.Name, c.Version, model.Signature)
}

// checkedModel reads a file and looks whether it is fit for use.
func (f *frontend) checkedModel(ctx context.Context, c rewrite.ImportModel) (udf.Model, error) {
	var model udf.Model
	content, err := f.s.srv.library.Store().Import(c.Path)
	if err == nil {
		model, err = f.s.srv.library.Runtime().CheckModel(c.Name, c.Version, content)
	}
	const hint = "Paths are those of files in the folder import of the proxy's --models folder."
	var unfit *udf.ModelError
	var device *udf.DeviceError
	switch {
	case err == nil, errors.As(err, &device):
		return model, err
	case errors.As(err, &unfit):
		return model, &Error{Code: codeFeatureNotSupported, Message: fmt.Sprintf("%q cannot be imported: %s", c.Path, unfit.Message), Hint: unfit.Hint}
	case errors.Is(err, udf.ErrImportPath):
		return model, &Error{Code: codeInvalidParameter, Message: fmt.Sprintf("%q does not name a file that can be imported", c.Path), Hint: hint + " They begin with no slash and have no .. in them, and links do not lead out."}
	case errors.Is(err, udf.ErrModelMissing):
		return model, &Error{Code: codeUndefinedFile, Message: fmt.Sprintf("there is no file %q to import", c.Path), Hint: hint}
	case errors.Is(err, udf.ErrModelCorrupt), errors.Is(err, udf.ErrTestVector):
		return model, &Error{Code: codeInvalidBinary, Message: fmt.Sprintf("%q cannot be imported: %s", c.Path, strings.TrimSpace(err.Error())), Hint: "Export it again, as an ONNX file."}
	}
	f.s.log.ErrorContext(ctx, "a model could not be checked", "model", c.Name, "version", c.Version, "error", err)
	return model, &Error{Code: codeSystemError, Message: fmt.Sprintf("%q could not be read", c.Path), Hint: "The proxy's log says why."}
}

// publishModel writes the file where models are loaded from. That it will is written down first, so that no sweep takes it for one that
// nobody needs.
func (f *frontend) publishModel(ctx context.Context, c rewrite.ImportModel, model udf.Model) (token string, err error) {
	store := f.s.srv.library.Store()
	token, database, err := f.s.srv.catalog.BeginPublication(ctx, catalog.Publication{
		Model: c.Name, Version: c.Version, SHA256: udf.Hash(model.Content), Inputs: model.Inputs, Outputs: model.Dims, Signature: model.Signature,
	})
	if err != nil {
		return "", err
	}
	if err := store.Claim(database); err != nil {
		return "", err
	}
	_, err = store.Publish(c.Name, c.Version, model.Content)
	return token, err
}
