package proxy

import (
	"errors"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/scrimdb/scrim/rewrite"
	"github.com/scrimdb/scrim/udf"
)

// SQLSTATEs that are born in this package. https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	codeProtocolViolation     = "08P01"
	codeUndefinedParameter    = "42P02"
	codeSyntaxError           = "42601"
	codeInsufficientPrivilege = "42501"
	codeUndefinedObject       = "42704"
	codeUndefinedTable        = "42P01"
	codeUndefinedFunction     = "42883"
	codeUndefinedSchema       = "3F000"
	codeConnectionFailure     = "08006"
	codeFeatureNotSupported   = "0A000"
	codeProgramLimit          = "54000"
	codeDependentObjects      = "2BP01"
	codeObjectNotInState      = "55000"
	codeQueryCanceled         = "57014"
	codeAdminShutdown         = "57P01"
	codeIdleSessionTimeout    = "57P05"
	codeTooManyConnections    = "53300"
	codeInvalidParameter      = "22023"
	codeInvalidAuthorization  = "28000"
	codeInvalidBinary         = "22P03"
	codeSystemError           = "58000"
	codeUndefinedFile         = "58P01"
	codeDataCorrupted         = "XX001"
	codeInternal              = "XX000"
)

// Error is an error as the client sees it.
type Error struct {
	Code    string
	Message string
	Detail  string
	Hint    string
	// Position is a character index in the statement, from 1; 0 for none.
	Position int32
	// Fatal ends the session.
	Fatal bool
}

// Error returns the message with its SQLSTATE.
func (e *Error) Error() string { return e.Message + " (SQLSTATE " + e.Code + ")" }

// encode returns the ErrorResponse message.
func (e *Error) encode() []byte {
	severity := "ERROR"
	if e.Fatal {
		severity = "FATAL"
	}
	msg := pgproto3.ErrorResponse{
		Severity: severity, SeverityUnlocalized: severity, Code: e.Code, Message: e.Message,
		Detail: e.Detail, Hint: e.Hint, Position: e.Position,
	}
	return encode(&msg)
}

// encode never fails on the messages we make: it only can when one is over 1 GB.
func encode(msg pgproto3.BackendMessage) []byte {
	b, err := msg.Encode(nil)
	if err != nil {
		return encode(&pgproto3.ErrorResponse{Severity: "FATAL", Code: codeInternal, Message: "cannot encode a message"})
	}
	return b
}

// clientError turns any error into what the client gets. It is the one place that does.
func clientError(err error, text string) *Error {
	var own *Error
	var refusal *rewrite.Refusal
	var device *udf.DeviceError
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &refusal):
		e := &Error{Code: refusal.Code, Message: refusal.Message, Hint: refusal.Hint}
		if refusal.Offset >= 0 && refusal.Offset <= len(text) {
			e.Position = int32(utf8.RuneCountInString(text[:refusal.Offset])) + 1
		}
		return e
	case errors.As(err, &device):
		return &Error{Code: codeFeatureNotSupported, Message: device.Message, Hint: device.Hint}
	}
	return &Error{Code: codeSystemError, Message: err.Error()}
}
