package integration_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"html"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/scrimdb/scrim/catalog"
	"github.com/scrimdb/scrim/console"
	"github.com/scrimdb/scrim/proxy"
)

// openConsole starts a console on a loopback address, and returns where it is.
func openConsole(t *testing.T, c *catalog.Catalog, p *proxy.Server, log *slog.Logger) (url string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveConsole(t, console.Config{Listener: listener, Catalog: c, Proxy: p, Logger: log})
}

func serveConsole(t *testing.T, cfg console.Config) (url string) {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = logger()
	}
	s, err := console.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- s.Serve(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return s.URL()
}

// reply is what a browser gets.
type reply struct {
	status int
	header http.Header
	body   string
}

// visit gets a page, without a login if role is empty.
func visit(t *testing.T, url, role, password string) reply {
	t.Helper()
	return request(t, http.MethodGet, url, role, password, nil, "")
}

func request(t *testing.T, method, url, role, password string, trust *tls.Config, host string) reply {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if role != "" {
		r.SetBasicAuth(role, password)
	}
	r.Host = host
	client := http.Client{Transport: &http.Transport{TLSClientConfig: trust, DisableKeepAlives: true}}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{status: response.StatusCode, header: response.Header, body: string(body)}
}

var (
	lineOfTable = regexp.MustCompile(`(?s)<tr>.*?</tr>`)
	cellOfLine  = regexp.MustCompile(`(?s)<t[hd][^>]*>(.*?)</t[hd]>`)
	tag         = regexp.MustCompile(`<[^>]*>`)
)

// lines are the lines of a page's tables, with what a reader sees in the cells. Bars are empty cells.
func (a reply) lines() []string {
	var lines []string
	for _, line := range lineOfTable.FindAllString(a.body, -1) {
		var cells []string
		for _, cell := range cellOfLine.FindAllStringSubmatch(line, -1) {
			cells = append(cells, html.UnescapeString(strings.TrimSpace(tag.ReplaceAllString(cell[1], ""))))
		}
		lines = append(lines, strings.Join(cells, "|"))
	}
	return lines
}

func (a reply) has(t *testing.T, line string) {
	t.Helper()
	for _, l := range a.lines() {
		if l == line {
			return
		}
	}
	t.Errorf("no line %q in\n%s", line, strings.Join(a.lines(), "\n"))
}

// TestConsole: the pages have what the database has, figure for figure, and none of the values that it was made from.
func TestConsole(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		e.trains(t)
		owner, admin := e.connect(t, olga), e.admin(t)
		e.exec(t, owner, testPolicy, measured, `ALTER TABLE measured RENAME TO "<i>t</i>"`, `ALTER TABLE "<i>t</i>" RENAME a TO "<b>""x""</b>"`,
			`CREATE TABLE few AS SELECT i AS x, i * i AS y FROM generate_series(1, 50) i`,
			`CREATE ENCODER few ON few (x, y) WITH (latent_dims = 1, epochs = 70, batch_size = 8) WAIT`,
			`CREATE ENCODER wild ON "<i>t</i>" ("<b>""x""</b>", b, c) PASSTHROUGH (name) WITH (latent_dims = 1, epochs = 30, batch_size = 64, target = name, max_leakage = 1) WAIT`,
			`TRAIN ENCODER wild WAIT`, `ALTER ENCODER wild SET SCHEDULE '0 3 * * sun' ROW GROWTH 50000`,
			`CREATE MASKING POLICY "<u>'p'</u>" ON "<i>t</i>" ("<b>""x""</b>") USING ENCODER wild ("<b>""x""</b>", b, c) PRESENT AS VECTOR`)
		viewer := extraRole(t, e, "scrim_admin")
		url := openConsole(t, e.catalog, e.proxy, nil)
		until(t, admin, `SELECT next_training IS NOT NULL FROM scrim.encoders WHERE name = 'wild'`, "t\n") // a worker has looked

		overview := visit(t, url, viewer, viewer)
		if overview.status != http.StatusOK {
			t.Fatal(overview)
		}
		loss := figureOf(t, admin, `SELECT loss FROM scrim.encoders WHERE name = 'wild'`)
		next := strings.TrimSpace(mustText(t, admin, `SELECT to_char(next_training AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') FROM scrim.encoders WHERE name = 'wild'`))
		overview.has(t, `wild|public."<i>t</i>"|<b>"x"</b>, b, c|1|2 of 2|2,000|`+loss+`|0 3 * * sun next `+next+` UTC or after 50,000 new rows`)
		overview.has(t, `public."<i>t</i>"|<u>'p'</u>|<b>"x"</b>|vector|wild|<b>"x"</b>, b, c||olga`)
		overview.has(t, `public.customers|p|age, income, score|components|enc|age, income, score, vip|risk|olga`)
		if strings.Contains(overview.body, "http-equiv") {
			t.Error("the overview is refreshed while nothing is trained")
		}

		wild, enc, few := visit(t, url+"encoders/wild", viewer, viewer), visit(t, url+"encoders/enc", olga, olga), visit(t, url+"encoders/few", viewer, viewer)
		for name, page := range map[string]reply{"wild": wild, "enc": enc, "few": few} {
			if page.status != http.StatusOK {
				t.Fatal(name, page)
			}
			reported(t, e.directly(t, viewer), page, name)
		}
		for _, version := range []string{"1", "2"} {
			row := strings.Split(strings.TrimSpace(mustText(t, admin, `SELECT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), sha256 FROM scrim.encoder_versions WHERE encoder = 'wild' AND version = `+version)), "|")
			loss := figureOf(t, admin, `SELECT loss FROM scrim.encoder_versions WHERE encoder = 'wild' AND version = `+version)
			wild.has(t, version+"|"+map[string]string{"1": "", "2": "default"}[version]+"|2,000|"+loss+"|"+strings.Join(row, "|"))
		}
		if n := strings.Count(wild.body, "<circle"); n != 30 || !strings.Contains(wild.body, ">epoch<") {
			t.Errorf("the curve of 30 epochs has %d dots", n)
		}
		if !strings.Contains(few.body, "there are less than 100 rows") || strings.Contains(few.body, "<circle") || strings.Count(few.body, ",") < 70 {
			t.Errorf("a page without dots, and with what cannot be told: %s", few.body)
		}

		for name, page := range map[string]reply{"overview": overview, "wild": wild, "enc": enc, "few": few} {
			for _, bad := range append([]string{`<b>"`, `<b>&#34;`, `<i>t`, `<u>'`, "<script", "ZgotmplZ", "&lt;nil&gt;", "%!"}, canaries...) {
				if strings.Contains(page.body, bad) {
					t.Errorf("%s has %s:\n%s", name, bad, page.body)
				}
			}
		}
		if a := visit(t, url+"encoders/%3Cscript%3E", viewer, viewer); a.status != http.StatusNotFound || !strings.Contains(a.body, "&lt;script&gt;") {
			t.Errorf("an encoder that is not there: %d %s", a.status, a.body)
		}
		if a := request(t, http.MethodHead, url, viewer, viewer, nil, ""); a.status != http.StatusOK || a.body != "" {
			t.Errorf("HEAD: %d %q", a.status, a.body)
		}
		until(t, admin, `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'scrim console' AND datname = current_database()`, "0\n")
	})
}

// figureOf is a number as the console writes it.
func figureOf(t *testing.T, conn *pgx.Conn, query string) string {
	t.Helper()
	value, err := strconv.ParseFloat(strings.TrimSpace(mustText(t, conn, query)), 64)
	if err != nil {
		t.Fatal(err)
	}
	return written(&value)
}

func written(value *float64) string {
	if value == nil {
		return "unknown"
	}
	return fmt.Sprintf("%.4g", *value)
}

// reported compares the tables of a page with scrim.encoder_report.
func reported(t *testing.T, conn *pgx.Conn, page reply, encoder string) {
	t.Helper()
	rows, err := conn.Query(t.Context(), `SELECT kind, coalesce(feature, ''), measure, value, coalesce(note, '') FROM scrim.encoder_report($1)`, encoder)
	if err != nil {
		t.Fatal(err)
	}
	line, figures := "", 0
	var mistake string
	for rows.Next() {
		var kind, feature, measure, note string
		var value *float64
		if err := rows.Scan(&kind, &feature, &measure, &value, &note); err != nil {
			t.Fatal(err)
		}
		figures++
		switch kind + " " + measure {
		case "training loss":
			page.has(t, strings.TrimPrefix(note, "after epoch ")+"|"+written(value))
		case "feature reconstruction_error":
			mistake = written(value)
		case "feature leakage":
			line = feature + "|" + written(value) + "||" + note
		case "feature leakage_ridge":
			line += "|" + written(value)
		case "feature leakage_neighbours":
			page.has(t, line+"|"+written(value)+"|"+mistake+"|")
		case "encoder sampled_rows":
			page.has(t, "sampled rows|"+strings.Replace(fmt.Sprint(*value), "2000", "2,000", 1)+"||"+note)
		case "encoder neighbourhood_overlap":
			page.has(t, "neighbourhood overlap|"+written(value)+"||"+note)
		default:
			page.has(t, feature+": "+strings.ReplaceAll(measure, "_", " ")+"|"+written(value)+"||"+note)
		}
	}
	if err := rows.Err(); err != nil || figures < 10 {
		t.Errorf("%d figures of %s: %v", figures, encoder, err)
	}
}

// TestConsoleLogin: PostgreSQL decides who sees anything. Who may not is told how he may; nothing of a login is in the log.
func TestConsoleLogin(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		log := &lockedBuffer{}
		open := func() string {
			return openConsole(t, e.catalog, e.proxy, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
		}
		url := open()
		for _, c := range []struct {
			role, password string
			status         int
			want           string
		}{
			{"", "", 401, "Log in with a PostgreSQL role"},
			{olga, "", 401, "Log in with a PostgreSQL role"},
			{olga, "w0rd-wrong", 401, "Log in with a PostgreSQL role"},
			{"nobody-such", "w0rd-wrong", 401, "Log in with a PostgreSQL role"},
			{olga + "\x00options\x00-c x=y", olga, 401, "Log in with a PostgreSQL role"},
			{analyst, analyst, 403, `GRANT scrim_admin TO &#34;analyst&#34;;`},
			{olga, olga, 200, "<h1>Encoders</h1>"},
		} {
			for _, page := range []string{"", "encoders/enc"} {
				a := visit(t, url+page, c.role, c.password)
				if page != "" && c.status == 200 {
					c.want = "What version 1 gives away"
				}
				if a.status != c.status || !strings.Contains(a.body, c.want) {
					t.Errorf("%q, %q: %d %s", c.role, c.password, a.status, a.body)
				}
				if login := a.header.Get("WWW-Authenticate"); (login != "") != (a.status == 401) {
					t.Errorf("%q: %d asks for a login: %q", c.role, a.status, login)
				}
				if a.status == 401 && (strings.Contains(a.body, e.database) || c.role != "" && strings.Contains(a.body, c.role)) {
					t.Errorf("%q: a stranger is told: %s", c.role, a.body)
				}
				for name, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Content-Security-Policy": "default-src 'none'; style-src 'self';"} {
					if !strings.HasPrefix(a.header.Get(name), want) {
						t.Errorf("%s: %q", name, a.header.Get(name))
					}
				}
				if strings.Contains(a.body, "<script") || strings.Contains(a.body, "style=") {
					t.Error("a page has what its policy forbids")
				}
			}
		}
		if a := visit(t, url+"encoders/none", analyst, analyst); a.status != 403 {
			t.Errorf("which encoders there are is told to everybody: %d", a.status)
		}
		for _, secret := range []string{"w0rd-wrong", "nobody-such", olga} {
			if strings.Contains(log.String(), secret) {
				t.Errorf("the log has %s:\n%s", secret, log)
			}
		}
		if !strings.Contains(log.String(), "28P01") {
			t.Errorf("the log does not say that a login failed:\n%s", log)
		}

		// Of wrong passwords, one after the other and at once, ten are tried.
		guessed := open()
		var all sync.WaitGroup
		var mu sync.Mutex
		tried := map[int]int{}
		for range 30 {
			all.Go(func() {
				status := visit(t, guessed, olga, "wrong").status
				mu.Lock()
				defer mu.Unlock()
				tried[status]++
			})
		}
		all.Wait()
		if tried[401] != 10 || tried[429] != 20 {
			t.Errorf("of 30 guesses: %v", tried)
		}
		if a := visit(t, guessed, olga, olga); a.status != 429 || a.header.Get("Retry-After") == "" {
			t.Errorf("the eleventh guess is right: %d", a.status)
		}
		good := open()
		for range 15 {
			if a := visit(t, good, analyst, analyst); a.status != 403 {
				t.Fatalf("who has the right password is counted: %d", a.status)
			}
		}
	})
}

// TestConsoleDoor is about who may talk to it at all.
func TestConsoleDoor(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		url := openConsole(t, e.catalog, e.proxy, nil)
		for host, want := range map[string]int{
			"": 200, "localhost": 200, "LocalHost:6480": 200, "127.0.0.1:1": 200, "127.1.2.3": 200, "[::1]:80": 200, "[::1]": 200,
			"evil.example": 421, "evil.example:6480": 421, "localhost.evil.example": 421, "127.0.0.1.evil.example": 421, "10.0.0.1": 421, "0.0.0.0": 421,
		} {
			for _, page := range []string{"", "healthz"} {
				if a := request(t, http.MethodGet, url+page, olga, olga, nil, host); a.status != want {
					t.Errorf("as %q: %d, want %d", host, a.status, want)
				}
			}
		}
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions, http.MethodTrace} {
			if a := request(t, method, url, olga, olga, nil, ""); a.status != http.StatusMethodNotAllowed {
				t.Errorf("%s: %d", method, a.status)
			}
		}
		if a := visit(t, url+"nothing", olga, olga); a.status != http.StatusNotFound {
			t.Errorf("no such page: %d", a.status)
		}
		if a := visit(t, url+"style.css", "", ""); a.status != http.StatusOK || !strings.HasPrefix(a.header.Get("Content-Type"), "text/css") {
			t.Errorf("the style sheet: %d %s", a.status, a.header)
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Long", strings.Repeat("x", 64<<10))
		if response, err := http.DefaultClient.Do(r); err != nil || response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("64 KiB of header: %v %v", response, err)
		} else {
			_ = response.Body.Close()
		}

		// Many who say nothing hold nobody up for longer than they may.
		at := strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/")
		for range 150 {
			conn, err := net.Dial("tcp", at)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
		}
		eventually(t, func() bool {
			response, err := http.Get(url + "healthz")
			if err == nil {
				_ = response.Body.Close()
			}
			return err == nil && response.StatusCode == http.StatusOK
		})
	})
}

// TestConsoleHealth: it is well while the catalog is fresh.
func TestConsoleHealth(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		c, err := catalog.Open(t.Context(), catalog.Config{DSN: e.catalogDSN, Logger: logger(), Lease: time.Second, PollInterval: 100 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		url := openConsole(t, c, e.proxy, nil)
		well := func(status int, word string) bool {
			a := visit(t, url+"healthz", "", "")
			return a.status == status && a.body == word+"\n"
		}
		eventually(t, func() bool { return well(http.StatusServiceUnavailable, "stale") }) // nobody runs c
		if _, err := c.Reload(t.Context()); err != nil || !well(http.StatusOK, "ok") {
			t.Errorf("not well after a look at the catalog: %v", err)
		}
	})
}

// TestConsoleProgress: a page on which a job runs shows how far it is, and comes anew until it has ended.
func TestConsoleProgress(t *testing.T) {
	onEach(t, func(t *testing.T, e *env) {
		owner := e.connect(t, olga)
		job := startTraining(t, owner, `CREATE ENCODER long ON customers (age, income) WITH (epochs = 10000, batch_size = 16)`)
		url := openConsole(t, e.catalog, e.proxy, nil)
		a := visit(t, url, olga, olga)
		a.has(t, job+"|long|queued||olga||")
		a.has(t, "long|public.customers|age, income|16|none yet|||")
		if page := visit(t, url+"encoders/long", olga, olga); !strings.Contains(page.body, "It has no version yet") {
			t.Errorf("an encoder without a version: %s", page.body)
		}
		e.trains(t)
		progress := regexp.MustCompile(`<progress max="10000" value="[1-9]\d*" aria-label="epochs of job ` + job + `"></progress> training: epoch [1-9][\d,]* of 10,000, loss \S+, [\d,]+ rows/s`)
		for _, page := range []string{"", "encoders/long"} {
			eventually(t, func() bool {
				a = visit(t, url+page, olga, olga)
				return progress.MatchString(a.body)
			})
			if !strings.Contains(a.body, `<meta http-equiv="refresh" content="2">`) {
				t.Errorf("it does not come anew: %s", a.body)
			}
		}
		e.exec(t, owner, `CANCEL TRAINING JOB '`+job+`'`)
		until(t, owner, stateOf(job), "cancelled|∅\n")
		if a := visit(t, url, olga, olga); strings.Contains(a.body, "http-equiv") || strings.Contains(a.body, "<progress") {
			t.Errorf("it comes anew when all is over: %s", a.body)
		}
	})
}

// testConsole: to the server it goes as the proxy does; from outside of this machine by HTTPS only.
func (s *secure) testConsole(t *testing.T) {
	admin := s.admin(t, "app")
	for _, role := range []string{"scrammer", "plain", "hashed", "scram_by_md5", `"Ünïcode "" x"`, "expired", "without", "nologin", "rejected"} {
		if _, err := admin.Exec(t.Context(), `GRANT scrim_admin TO `+role); err != nil {
			t.Fatal(err)
		}
	}
	upstream := proxy.UpstreamTLS{SSLMode: "verify-full", SSLRootCert: s.ca.file}
	p := s.open(t, proxy.Config{TLS: s.withTLS(t), UpstreamTLS: upstream}, "")
	url := openConsole(t, p.catalog, p.srv, nil)
	for role, want := range map[string]int{
		"scrammer": 200, "plain": 200, "hashed": 200, "scram_by_md5": 200, "expired": 401, "without": 401, "nologin": 401, "rejected": 401, "trusting": 403,
	} {
		if a := visit(t, url, role, "secret"); a.status != want {
			t.Errorf("%s: %d, want %d: %s", role, a.status, want, a.body)
		}
	}
	if a := visit(t, url, `Ünïcode " x`, "sécret"); a.status != 200 || !strings.Contains(a.body, "Ünïcode &#34; x") {
		t.Errorf("a name beyond ASCII: %d %s", a.status, a.body)
	}
	other := s.open(t, proxy.Config{UpstreamTLS: proxy.UpstreamTLS{SSLMode: "verify-full", SSLRootCert: newAuthority(t, "another").file}}, "")
	if a := visit(t, openConsole(t, other.catalog, other.srv, nil), "scrammer", "secret"); a.status != 503 {
		t.Errorf("with a server that is not trusted: %d %s", a.status, a.body)
	}

	everywhere := func(p *proxied) console.Config {
		listener, err := net.Listen("tcp", "0.0.0.0:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = listener.Close() })
		return console.Config{Listener: listener, Catalog: p.catalog, Proxy: p.srv}
	}
	if _, err := console.New(everywhere(other)); err == nil || !strings.Contains(err.Error(), "HTTPS only: it needs the proxy's certificate") {
		t.Errorf("passwords in plain text from everywhere: %v", err)
	}
	strict := s.withTLS(t)
	strict.CAFile, strict.ClientCert = s.ca.file, "verify-full"
	if _, err := console.New(everywhere(s.open(t, proxy.Config{TLS: strict}, ""))); err == nil || !strings.Contains(err.Error(), "client certificates") {
		t.Errorf("without the client's certificate, which the proxy asks for: %v", err)
	}
	files := s.ca.issue(t, "first")
	p = s.open(t, proxy.Config{TLS: proxy.ClientTLS{CertFile: files.cert, KeyFile: files.key}, UpstreamTLS: upstream}, "")
	cfg := everywhere(p)
	if url = serveConsole(t, cfg); !strings.HasPrefix(url, "https://") {
		t.Errorf("it says that it is at %s", url)
	}
	url = fmt.Sprintf("https://127.0.0.1:%d/", cfg.Listener.Addr().(*net.TCPAddr).Port)
	pem, err := os.ReadFile(s.ca.file)
	if err != nil {
		t.Fatal(err)
	}
	trust := &tls.Config{RootCAs: x509.NewCertPool()}
	trust.RootCAs.AppendCertsFromPEM(pem)
	shown := ""
	trust.VerifyConnection = func(state tls.ConnectionState) error {
		shown = state.PeerCertificates[0].Subject.CommonName
		return nil
	}
	for _, name := range []string{"first", "second"} {
		if name == "second" {
			files.replace(t, s.ca.issue(t, name))
			if err := p.srv.ReloadTLS(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if a := request(t, http.MethodGet, url, "scrammer", "secret", trust, "scrim.example"); a.status != 200 || shown != name {
			t.Errorf("by HTTPS: %d, with certificate %s instead of %s", a.status, shown, name)
		}
	}
	if a := visit(t, strings.Replace(url, "https", "http", 1), "scrammer", "secret"); a.status != 400 || strings.Contains(a.body, "Encoders") {
		t.Errorf("in plain text: %d %s", a.status, a.body)
	}
}
