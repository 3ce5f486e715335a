package integration_test

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgproto3"
)

// backendNames are the messages of a server. https://www.postgresql.org/docs/current/protocol-message-formats.html
var backendNames = map[byte]string{
	'1': "ParseComplete", '2': "BindComplete", '3': "CloseComplete", 'A': "NotificationResponse", 'C': "CommandComplete", 'D': "DataRow",
	'E': "ErrorResponse", 'G': "CopyInResponse", 'H': "CopyOutResponse", 'I': "EmptyQueryResponse", 'K': "BackendKeyData", 'N': "NoticeResponse",
	'R': "Authentication", 'S': "ParameterStatus", 'T': "RowDescription", 'V': "FunctionCallResponse", 'W': "CopyBothResponse",
	'Z': "ReadyForQuery", 'c': "CopyDone", 'd': "CopyData", 'n': "NoData", 's': "PortalSuspended", 't': "ParameterDescription",
	'v': "NegotiateProtocolVersion",
}

func messageName(msg []byte) string {
	if name, ok := backendNames[msg[0]]; ok {
		return name
	}
	return fmt.Sprintf("type %#02x", msg[0])
}

// printer makes messages readable: values that are codes get the name of the row and column they belong to, so that
// goldens hold on every machine, and so do relations, whose OIDs are different in each run.
type printer struct {
	codes     map[string]string // the bytes of a code, text or binary, to a name
	relations map[uint32]string
}

func (p printer) print(msg []byte) string {
	body := msg[5:]
	switch msg[0] {
	case 'E', 'N':
		return messageName(msg) + " " + printError(msg)
	case 'D':
		var m pgproto3.DataRow
		if err := m.Decode(body); err != nil {
			return "DataRow " + err.Error()
		}
		return "DataRow" + p.cells(m.Values)
	case 'T':
		return "RowDescription" + p.fields(body)
	case 'C', 'Z':
		return messageName(msg) + " " + strings.TrimRight(string(body), "\x00")
	case 'S':
		name, rest, _ := strings.Cut(string(body), "\x00")
		return fmt.Sprintf("ParameterStatus %s=%q", name, strings.TrimRight(rest, "\x00"))
	case 'd':
		return fmt.Sprintf("CopyData %s", value(body))
	case 'A':
		channel, payload, _ := strings.Cut(string(body[4:]), "\x00")
		return fmt.Sprintf("NotificationResponse %q %q", channel, strings.TrimRight(payload, "\x00"))
	case 'R':
		return fmt.Sprintf("Authentication %d", binary.BigEndian.Uint32(body))
	case 'v':
		return fmt.Sprintf("NegotiateProtocolVersion 3.%d %q", binary.BigEndian.Uint32(body)&0xffff, strings.Split(strings.TrimRight(string(body[8:]), "\x00"), "\x00"))
	case 'K', '1', '2', '3', 'I', 'n', 's', 'c':
		return messageName(msg) // what is in them, if anything, is another each time
	}
	return messageName(msg) + " " + hex.EncodeToString(body)
}

func printError(msg []byte) string {
	var m pgproto3.ErrorResponse
	if err := m.Decode(msg[5:]); err != nil {
		return err.Error()
	}
	s := fmt.Sprintf("%s %s %q", m.Severity, m.Code, m.Message)
	if m.Position != 0 {
		s += fmt.Sprintf(" at %d", m.Position)
	}
	return s
}

func (p printer) cells(values [][]byte) string {
	var b strings.Builder
	for _, v := range values {
		b.WriteByte(' ')
		switch name, isCode := p.codes[string(v)]; {
		case v == nil:
			b.WriteString("NULL")
		case isCode:
			b.WriteString(name)
		default:
			b.WriteString(value(v))
		}
	}
	return b.String()
}

// value prints text, or hex; long ones are cut.
func value(v []byte) string {
	tail := ""
	if len(v) > 100 {
		tail = fmt.Sprintf("… (%d bytes)", len(v))
		v = v[:20]
	}
	if utf8.Valid(v) && !strings.Contains(string(v), "\x00") {
		return strconv.Quote(string(v)) + tail
	}
	return `x"` + hex.EncodeToString(v) + `"` + tail
}

// fields prints name:type:format@relation.column.
func (p printer) fields(body []byte) string {
	var m pgproto3.RowDescription
	if err := m.Decode(body); err != nil {
		return " " + err.Error()
	}
	var b strings.Builder
	for _, f := range m.Fields {
		fmt.Fprintf(&b, " %s:%d:%d", f.Name, f.DataTypeOID, f.Format)
		if f.TableOID != 0 {
			relation, ok := p.relations[f.TableOID]
			if !ok {
				relation = "other"
			}
			fmt.Fprintf(&b, "@%s.%d", relation, f.TableAttributeNumber)
		}
	}
	return b.String()
}
