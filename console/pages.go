package console

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scrimdb/scrim/catalog"
)

//go:embed templates/*.html
var templates embed.FS

//go:embed style.css
var style []byte

var pages = template.Must(template.New("").Funcs(template.FuncMap{
	"bar": bar, "count": count, "duration": duration, "figure": figure, "join": func(names []string) string { return strings.Join(names, ", ") },
	"measure": func(name string) string { return strings.ReplaceAll(name, "_", " ") },
	"time":    func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") },
	"machine": func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
}).ParseFS(templates, "templates/*.html"))

// page is what every page has.
type page struct {
	Title    string
	Database string
	Role     string // who has logged in; without one nothing is told, not even the name of the database
	Refresh  bool   // a job runs
	Body     any
}

func (s *Server) overview(w http.ResponseWriter, r *http.Request) {
	var o catalog.Overview
	err := s.door.enter(r, func(conn *pgx.Conn) (err error) {
		o, err = catalog.ReadOverview(r.Context(), conn)
		return err
	})
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.show(w, r, http.StatusOK, "overview", page{Title: "Encoders", Refresh: underWay(o.Jobs), Body: o})
}

func (s *Server) encoder(w http.ResponseWriter, r *http.Request) {
	var known catalog.EncoderReport
	err := s.door.enter(r, func(conn *pgx.Conn) (err error) {
		known, err = catalog.ReadEncoderReport(r.Context(), conn, r.PathValue("name"))
		return err
	})
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.show(w, r, http.StatusOK, "encoder", page{Title: "Encoder " + known.Encoder.Name, Refresh: underWay(known.Jobs), Body: newReport(known)})
}

// underWay tells whether a page has something to wait for.
func underWay(jobs []catalog.TrainingJob) bool {
	for _, j := range jobs {
		if j.State == "running" || j.State == "queued" {
			return true
		}
	}
	return false
}

func styleSheet(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	_, _ = w.Write(style)
}

// show sends a page as a whole, or an error.
func (s *Server) show(w http.ResponseWriter, r *http.Request, status int, name string, p page) {
	if status == http.StatusOK || status == http.StatusForbidden || status == http.StatusNotFound {
		p.Database = s.catalog.Database()
		p.Role, _, _ = r.BasicAuth()
	}
	var b bytes.Buffer
	if err := pages.ExecuteTemplate(&b, name, p); err != nil {
		s.log.ErrorContext(r.Context(), "a page of the console is broken", "page", name, "error", err)
		http.Error(w, "This page is broken. Scrim's log says more.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = b.WriteTo(w)
}

// fail sends the page of an error.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	var f *failure
	switch {
	case errors.As(err, &f):
	case errors.Is(err, catalog.ErrNoEncoder):
		f = &failure{Status: http.StatusNotFound, Message: fmt.Sprintf("There is no encoder %q.", r.PathValue("name")), Hint: "The overview lists them."}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		f = errSlow
	default:
		s.log.WarnContext(r.Context(), "the console cannot read", "code", code(err), "error", err)
		f = &failure{Status: http.StatusInternalServerError, Message: "That could not be read.", Hint: "Scrim's log says more."}
	}
	switch f.Status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Basic realm="Scrim: a PostgreSQL role and its password", charset="UTF-8"`)
	case http.StatusTooManyRequests:
		w.Header().Set("Retry-After", fmt.Sprint(int(window.Seconds())))
	}
	s.show(w, r, f.Status, "failure", page{Title: http.StatusText(f.Status), Body: f})
}
