package training

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"

	"github.com/scrimdb/scrim/udf/report"
	"github.com/scrimdb/scrim/udf/train"
)

// maxValues bounds the memory of one training: 1 GiB of features.
const maxValues = 1 << 27

// read streams the rows into memory, and the target's values if there is one.
func (j *job) read(ctx context.Context, password string) (*train.Data, *report.Target, error) {
	conn, err := j.login(ctx, password)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	o := j.order
	data := train.NewData(len(o.Features))
	var target *report.Target
	if o.Target != nil {
		target = &report.Target{Name: *o.Target, Labels: o.TargetIsLabel != nil && *o.TargetIsLabel}
	}
	const binaryFormat = 1
	rows := conn.ExecParams(ctx, o.Query, nil, nil, nil, []int16{binaryFormat})
	row := make([]float64, 0, len(o.Features))
	for rows.NextRow() {
		if data.Rows() == 0 {
			j.cfg.AtStep("reading")
		}
		if data.Rows() >= maxValues/len(o.Features) {
			err = &pgconn.PgError{
				Code: "54000", Message: fmt.Sprintf("encoder %q has too many rows to train on", o.Encoder),
				Hint: fmt.Sprintf("At most %d values are held in memory: train on a view or copy with fewer rows.", maxValues),
			}
			break
		}
		row = row[:0]
		for i, v := range rows.Values() {
			number := math.NaN() // NULL
			switch {
			case v == nil:
			case len(v) == 8:
				number = math.Float64frombits(binary.BigEndian.Uint64(v))
			default:
				err = errors.New("unexpected feature format")
			}
			if i < len(o.Features) {
				row = append(row, number)
			} else {
				target.Values = append(target.Values, number)
			}
		}
		if err == nil {
			err = data.Append(row)
		}
		if err != nil {
			break
		}
	}
	if err != nil {
		return nil, nil, err // closing the connection ends the query
	}
	_, err = rows.Close()
	return data, target, o.withoutRows(err)
}

// withoutRows leaves of what PostgreSQL said what cannot quote a row: the code. Jobs and logs are read by others than the table is.
func (o order) withoutRows(err error) error {
	var said *pgconn.PgError
	if !errors.As(err, &said) {
		return err
	}
	refused := &pgconn.PgError{
		Severity: said.Severity, Code: said.Code, Message: fmt.Sprintf("the rows to train encoder %q on could not be read: PostgreSQL refused with SQLSTATE %s", o.Encoder, said.Code),
		Hint: "Its message could quote a row, so it is not told. Read the features, and see.",
	}
	if said.Code == "42501" {
		refused.Hint = fmt.Sprintf("Rows are read as %q, which must be allowed to execute what a view calls.", o.Reader)
	}
	return refused
}

// login opens the session that reads, as the trainer of the table's owner.
func (j *job) login(ctx context.Context, password string) (*pgconn.PgConn, error) {
	cfg := j.dsn.Config.Copy()
	cfg.User, cfg.Password = j.order.Reader, password
	cfg.RuntimeParams = map[string]string{
		"application_name": "scrim training", "search_path": "pg_catalog,pg_temp", "default_transaction_read_only": "on", "row_security": "off", "statement_timeout": "0",
	}
	cfg.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler { // cancelled jobs leave no query behind
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: 5 * time.Second}
	}
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err == nil {
		return conn, nil
	}
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code[:2] == "28" {
		return nil, &pgconn.PgError{
			Code: refused.Code, Message: fmt.Sprintf("the role %q, which reads rows for training, could not log in: %s", j.order.Reader, refused.Message),
			Hint: "Allow roles whose names begin with scrim_trainer_ in pg_hba.conf, by scram-sha-256, from where Scrim runs.",
		}
	}
	return nil, fmt.Errorf("connect as %s: %w", j.order.Reader, err)
}

// closeReader takes the trainer's rights away: all is read.
func (j *job) closeReader(ctx context.Context) error {
	j.conn.Lock()
	defer j.conn.Unlock()
	_, err := j.holder.Exec(context.WithoutCancel(ctx), `SELECT scrim.end_reading($1)`, j.row.ID)
	return err
}

// newPassword makes a password and what PostgreSQL keeps of it, so that the password itself is in no statement.
// RFC 5802 and 7677; the form is that of scram_build_secret in PostgreSQL's src/common/scram-common.c.
func newPassword() (password, verifier string, err error) {
	const iterations = 4096
	var random [24 + 16]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", "", err
	}
	password, salt := base64.RawURLEncoding.EncodeToString(random[:24]), random[24:]
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return "", "", err
	}
	sign := func(message string) []byte {
		mac := hmac.New(sha256.New, salted)
		mac.Write([]byte(message))
		return mac.Sum(nil)
	}
	stored := sha256.Sum256(sign("Client Key"))
	encode := base64.StdEncoding.EncodeToString
	return password, fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, encode(salt), encode(stored[:]), encode(sign("Server Key"))), nil
}
