package rewrite

import "fmt"

// SQLSTATEs used by this package. https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	codeFeatureNotSupported   = "0A000"
	codeSyntaxError           = "42601"
	codeInsufficientPrivilege = "42501"
	codeUndefinedColumn       = "42703"
	codeTooComplex            = "54001"
	codeTooManyColumns        = "54011"
)

// Refusal is why a statement is not run. Its fields are those of PostgreSQL's ErrorResponse.
type Refusal struct {
	Code    string
	Message string
	Hint    string
	// Offset is the byte offset in the statement's text that the refusal is about; -1 for none.
	Offset int
}

// Error returns the message with its SQLSTATE.
func (r *Refusal) Error() string { return fmt.Sprintf("%s (SQLSTATE %s)", r.Message, r.Code) }

// refuse ends an analysis; Plan and parseCommand recover it. An analysis is a deep recursion in which every step can
// end the whole, and this keeps the steps readable.
func refuse(code string, offset int, hint, format string, args ...any) {
	panic(&Refusal{Code: code, Message: fmt.Sprintf(format, args...), Hint: hint, Offset: offset})
}

// recovered stores a refusal in err and lets every other panic through.
func recovered(err *error) {
	switch r := recover().(type) {
	case nil:
	case *Refusal:
		*err = r
	default:
		panic(r)
	}
}
